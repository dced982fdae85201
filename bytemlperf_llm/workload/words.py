"""Words for synthetic prompts: short and common, so that most are one token in most vocabularies."""

WORDS = tuple(
    """
    able about above across act add after again age ago agree air all allow alone along already also always among
    animal another answer any appear area arm around arrive art ask away baby back bad bag ball bank base basic
    battle bear beat beautiful bed before begin behind believe below best better between big bird black blood blue
    board boat body book born both bottom box boy break bridge bright bring broad brother brown build burn busy buy
    call came camp can capital car card care carry case cat catch cause cell center certain chair change chapter
    charge check child choice church circle city claim class clean clear climb clock close cloth cloud coast coat
    cold collect color come common company compare complete condition connect consider contain control cook cool
    copy corn corner correct cost cotton could count country course cover create cross crowd cry current cut dance
    danger dark day dead deal dear decide deep degree depend describe design detail develop did differ dinner direct
    discuss distant divide doctor dog dollar door double down draw dream dress drink drive drop dry during each ear
    early earth ease east eat edge effect egg eight either electric else end energy engine enough enter equal even
    evening event ever every exact example except excite exercise expect experience experiment explain eye face fact
    fair fall family famous far farm fast father favor fear feed feel feet fell few field fig fight figure fill final
    find fine finger finish fire first fish fit five flat floor flow flower fly follow food foot force forest form
    forward found four free fresh friend from front fruit full fun game garden gas gather gave general gentle get girl
    give glad glass gold gone good got govern grand grass gray great green grew ground group grow guess guide gun
    hair half hand happen happy hard hat have head hear heart heat heavy held help here high hill history hit hold
    hole home hope horse hot hour house huge human hundred hunt hurry ice idea imagine inch include indicate industry
    insect instant instrument interest invent iron island job join joy jump just keep kept key kill kind king knew
    know lady lake land language large last late laugh law lay lead learn least leave left leg length less letter
    level lie life lift light like line liquid list listen little live locate log lone long look lost lot loud love
    low machine made main major make man many map mark market mass master match material matter mean measure meat
    meet melody metal method middle might mile milk million mind mine minute miss mix modern moment money month moon
    more morning most mother motion mount mountain mouth move much music must name nation nature near necessary neck
    need never new next night nine noise noon north nose note nothing notice noun now number object observe occur
    ocean offer office often oil old once one only open operate opposite orange order organ original other own oxygen
    page paint pair paper paragraph parent part party pass past path pattern pay people perhaps period person phrase
    picture piece place plain plan plane planet plant play please plural poem point poor port pose position possible
    post pound power practice prepare present press pretty print probable problem process produce product property
    protect prove provide pull push question quick quiet quite race radio rail rain raise ran range rather reach read
    ready real reason receive record red region remember repeat reply represent require rest result rich ride right
    ring rise river road rock roll room root rope rose round row rub rule run safe sail salt same sand save say scale
    school science score sea search season seat second section see seed seem select sell send sense sentence separate
    serve set settle seven several shape share sharp sheet shell shine ship shoe shop shore short should shoulder
    """.split()  # noqa: SIM905 (five hundred quoted words are harder to read)
)
