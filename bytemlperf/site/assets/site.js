"use strict";
(function () {
  var root = document.documentElement;

  function made(name, text, parent) {
    var element = document.createElement(name);
    if (text !== undefined && text !== null) { element.textContent = text; }
    if (parent) { parent.appendChild(element); }
    return element;
  }
  function all(query, within) { return Array.prototype.slice.call((within || document).querySelectorAll(query)); }

  // -- the address keeps what was chosen: light or dark (on every page), filters and order
  var address = new URLSearchParams(location.search);
  function keep(name, value) {
    if (value) { address.set(name, value); } else { address.delete(name); }
    var query = address.toString();
    history.replaceState(null, "", (query ? "?" + query : location.pathname) + location.hash);
  }
  function keepTheme() {
    var theme = root.getAttribute("data-theme");
    if (!theme) { return; }
    all("a[href]").forEach(function (link) {
      var parts = link.getAttribute("href").split("#"), path = parts[0].split("?")[0];
      if (/\.html$/.test(path)) { link.setAttribute("href", path + "?theme=" + theme + (parts[1] ? "#" + parts[1] : "")); }
    });
  }
  if (/^(light|dark)$/.test(address.get("theme"))) { root.setAttribute("data-theme", address.get("theme")); }

  // -- light and dark
  var button = document.getElementById("theme");
  function isDark() {
    var asked = root.getAttribute("data-theme");
    return asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function sayTheme() { button.textContent = isDark() ? "Light" : "Dark"; }
  button.hidden = false;
  sayTheme();
  button.addEventListener("click", function () {
    root.setAttribute("data-theme", isDark() ? "light" : "dark");
    keep("theme", root.getAttribute("data-theme"));
    keepTheme();
    sayTheme();
  });

  // -- tables: filter, sort, pick for a comparison
  function textOf(cell) {
    var first = cell.querySelector("bdi");
    return (first || cell).textContent.trim();
  }
  function board(box, number) {
    var prefix = number ? number + 1 + "." : "";
    var table = box.querySelector("table"), body = table.tBodies[0], heads = all("thead th", table);
    var rows = all("tr", body).map(function (row) {
      return { element: row, cells: Array.prototype.slice.call(row.cells), text: row.textContent.toLowerCase() };
    });
    var bar = box.querySelector(".filters"), chosen = {}, words = "";
    bar.hidden = false;

    var search = labelled(bar, "Filter", made("input"));
    search.type = "search";
    search.value = address.get(prefix + "filter") || "";
    words = search.value.toLowerCase();
    search.addEventListener("input", function () { words = search.value.toLowerCase(); keep(prefix + "filter", search.value); show(); });
    heads.forEach(function (head, place) {
      if (head.hasAttribute("data-choose")) { chooser(head, place); }
      if (!head.classList.contains("pick")) { sorter(head, place); }
    });
    if (heads.length > 2) { sortList(); }
    var compare = box.getAttribute("data-compare") ? picker() : null;
    var empty = made("p", "Nothing fits these filters. ", box);
    empty.className = "note";
    var clear = made("button", "Show all", empty);
    clear.type = "button";
    clear.addEventListener("click", function () {
      search.value = words = "";
      keep(prefix + "filter", "");
      all("select[data-place]", bar).forEach(function (select) { select.value = ""; select.dispatchEvent(new Event("change")); });
      show();
    });
    var count = made("p", "", bar);
    count.className = "count";
    count.setAttribute("role", "status");
    show();

    function labelled(parent, text, control) {
      var field = made("div", undefined, parent), label = made("label", text, field);
      field.className = "field";
      label.htmlFor = control.id = "choice-" + number + "-" + bar.children.length;
      field.appendChild(control);
      return control;
    }
    function chooser(head, place) {
      var values = {};
      rows.forEach(function (row) { values[textOf(row.cells[place])] = true; });
      var names = Object.keys(values).sort();
      if (names.length < 2) { return; }
      var select = labelled(bar, head.textContent.trim(), made("select"));
      made("option", "all", select).value = "";
      names.forEach(function (name) { made("option", name, select).value = name; });
      var first = head.getAttribute("data-choose"), title = head.textContent.trim(), kept = address.get(prefix + title);
      var value = kept === "all" ? "" : kept !== null && values[kept] ? kept : first && values[first] ? first : "";
      select.setAttribute("data-place", String(place));
      select.value = chosen[place] = value;
      select.addEventListener("change", function () {
        chosen[place] = select.value;
        keep(prefix + title, select.value || (first ? "all" : ""));
        show();
      });
    }
    function sortList() {
      var select = labelled(bar, "sort by", made("select"));
      select.parentElement.className = "field narrow";
      made("option", "as ranked", select).value = "";
      heads.forEach(function (head, place) {
        if (!head.classList.contains("pick")) { made("option", head.textContent.trim(), select).value = String(place); }
      });
      select.addEventListener("change", function () { if (select.value) { heads[select.value].querySelector("button").click(); } });
    }
    function sorter(head, place) {
      var text = head.textContent.trim(), numeric = head.classList.contains("n"), kept = address.get(prefix + "sort");
      rows.forEach(function (row) { row.cells[place].setAttribute("data-label", text); });
      head.textContent = "";
      var sort = made("button", text, head);
      sort.type = "button";
      sort.addEventListener("click", function () {
        sortBy(head.getAttribute("aria-sort") === "ascending" || (numeric && !head.hasAttribute("aria-sort")));
      });
      if (kept === text + ":down" || kept === text + ":up") { sortBy(kept === text + ":down"); }

      function sortBy(down) {
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        rows.sort(function (a, b) { return order(a.cells[place], b.cells[place], numeric, down); });
        rows.forEach(function (row) { body.appendChild(row.element); });
        keep(prefix + "sort", text + (down ? ":down" : ":up"));
      }
    }
    function order(a, b, numeric, down) {
      if (!numeric) { return (down ? -1 : 1) * textOf(a).localeCompare(textOf(b), "en", { numeric: true }); }
      var x = a.getAttribute("data-sort"), y = b.getAttribute("data-sort");
      if (x === null || y === null) { return (x === null ? 1 : 0) - (y === null ? 1 : 0); } // unknown is last, both ways
      return (down ? -1 : 1) * (Number(x) - Number(y));
    }
    function picker() {
      var link = made("a", "", bar), picked = [], noun = box.getAttribute("data-noun");
      link.className = "go";
      rows.forEach(function (row) {
        var box_ = made("input", undefined, row.cells[0]), name = row.element.getAttribute("data-pick");
        box_.type = "checkbox";
        box_.setAttribute("aria-label", "compare " + textOf(row.element.querySelector("td a[href]") || row.cells[1]));
        box_.addEventListener("change", function () {
          picked = picked.filter(function (other) { return other !== name; });
          if (box_.checked) { picked.push(name); }
          say();
        });
      });
      function say() {
        link.textContent = picked.length > 1 ? "Compare " + picked.length + " " + noun : "Pick two " + noun + " or more to compare";
        if (picked.length > 1) { link.href = box.getAttribute("data-compare") + "#" + picked.map(encodeURIComponent).join(","); }
        else { link.removeAttribute("href"); }
        keepTheme();
      }
      say();
      return link;
    }
    function show() {
      var seen = 0;
      rows.forEach(function (row) {
        var fits = !words || row.text.indexOf(words) >= 0;
        Object.keys(chosen).forEach(function (place) { fits = fits && (!chosen[place] || textOf(row.cells[place]) === chosen[place]); });
        row.element.hidden = !fits;
        seen += fits ? 1 : 0;
      });
      count.textContent = seen + " of " + rows.length;
      empty.hidden = seen > 0;
      if (compare) { bar.appendChild(compare); }
    }
  }
  all(".board").forEach(board);
  keepTheme();

  // -- comparison of devices
  var holder = document.getElementById("compare-data");
  if (holder) { comparison(JSON.parse(holder.textContent)); }

  function comparison(data) {
    var byId = {}, chosen = [];
    data.devices.forEach(function (device) { byId[device.id] = device; });
    var add = document.getElementById("add"), list = document.getElementById("chosen");
    document.getElementById("compare").hidden = false;
    document.getElementById("chooser").addEventListener("submit", function (event) { event.preventDefault(); });
    add.addEventListener("change", function () { if (add.value) { choose(chosen.concat([add.value])); } });
    addEventListener("hashchange", fromAddress);
    fromAddress();

    function fromAddress() {
      var names = location.hash.slice(1).split(",").map(function (name) { try { return decodeURIComponent(name); } catch (error) { return ""; } });
      chosen = names.filter(function (name, place) { return Object.prototype.hasOwnProperty.call(byId, name) && names.indexOf(name) === place; });
      draw();
    }
    function choose(names) { location.hash = names.map(encodeURIComponent).join(","); if (!names.length) { chosen = []; draw(); } }

    function draw() {
      add.textContent = "";
      made("option", "choose …", add).value = "";
      data.devices.forEach(function (device) {
        if (chosen.indexOf(device.id) < 0) { made("option", device.name + (device.note ? " (" + device.note + ")" : ""), add).value = device.id; }
      });
      list.textContent = "";
      chosen.forEach(function (name) {
        var item = made("li", byId[name].name, list), away = made("button", "remove", item);
        away.type = "button";
        away.setAttribute("aria-label", "remove " + byId[name].name);
        away.addEventListener("click", function () { choose(chosen.filter(function (other) { return other !== name; })); });
      });
      document.getElementById("hint").textContent = chosen.length < 2 ? "Choose two " + data.noun + " or more." : "";
      fill(document.getElementById("published"), "published");
      fill(document.getElementById("measured"), "measured");
      keepTheme();
      root.setAttribute("data-chosen", String(chosen.length));
    }
    function fill(table, part) {
      if (!table) { return; }
      var keys = [], rows = {};
      chosen.forEach(function (name, place) {
        byId[name][part].forEach(function (row) {
          var key = (row.group || "") + "\u0000" + row.case + "\u0000" + row.unit;
          if (!rows[key]) { rows[key] = { row: row, values: [] }; keys.push(key); }
          rows[key].values[place] = row;
        });
      });
      if (part === "published") {
        keys.sort(function (a, b) { return data.order.indexOf(rows[a].row.case) - data.order.indexOf(rows[b].row.case); });
      }
      table.textContent = "";
      if (!chosen.length) { return; }
      var head = made("tr", undefined, made("thead", undefined, table));
      made("th", "", head).scope = "col";
      chosen.forEach(function (name) { var cell = made("th", byId[name].name, head); cell.scope = "col"; cell.className = "n"; });
      var body = made("tbody", undefined, table);
      var group = "";
      keys.forEach(function (key) {
        if ((rows[key].row.group || "") !== group) { group = heading(body, rows[key].row.group); }
        line(body, rows[key]);
      });
      if (!keys.length) { var cell = made("td", "nothing here for these " + data.noun, made("tr", undefined, body)); cell.colSpan = chosen.length + 1; }
    }
    function heading(body, text) {
      var cell = made("th", undefined, made("tr", undefined, body));
      cell.colSpan = chosen.length + 1;
      cell.scope = "rowgroup";
      cell.className = "group";
      made("bdi", text, cell);
      return text;
    }
    function line(body, entry) {
      var row = made("tr", undefined, body), head = made("th", undefined, row);
      head.scope = "row";
      made("bdi", entry.row.case, head);
      made("small", entry.row.unit + " · " + entry.row.better + " is better", head);
      var known = entry.values.filter(Boolean), lower = entry.row.better === "lower";
      var first = entry.values[0] ? entry.values[0].value : null;
      chosen.forEach(function (name, place) {
        var value = entry.values[place], cell = made("td", undefined, row);
        cell.className = "n" + (value && known.length > 1 && isBest(value, known, lower) ? " best" : "");
        if (!value) { cell.textContent = "–"; return; }
        if (value.link) { made("a", said(value.value), cell).href = value.link; } else { made("span", said(value.value), cell); }
        if (place && first) { made("span", (value.value / first).toFixed(2) + "×", cell).className = "factor"; }
        if (value.span) { made("small", value.span, cell); }
        if (value.money) { made("small", said(value.money) + " per 1,000 " + data.currency, cell); }
        if (value.watt) { made("small", said(value.watt) + " per watt", cell); }
      });
    }
    function isBest(value, known, lower) { // by the whole of both intervals; a measured value without one says nothing
      return !value.offered && value.span !== "" && known.every(function (other) {
        return other === value || (other.span !== "" && (lower ? value.high < other.low : value.low > other.high));
      });
    }
    function said(value) {
      var large = Math.abs(value) >= 1000;
      return value.toLocaleString("en", large ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 4 });
    }
  }
  root.setAttribute("data-drawn", "yes");
})();
