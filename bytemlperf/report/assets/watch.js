(function () {
  "use strict";
  var state = document.getElementById("state");
  var frame = document.getElementById("report");
  var place = 0;
  frame.addEventListener("load", function () { frame.contentWindow.scrollTo(0, place); });
  function show(says) {
    state.textContent = says.says;
    if (!says.page) { return; }
    place = frame.contentWindow ? frame.contentWindow.scrollY : 0;
    frame.src = "report?" + says.page;
    document.documentElement.setAttribute("data-records", String(says.records));
  }
  var source = new EventSource("events");
  source.addEventListener("look", function (event) { show(JSON.parse(event.data)); });
  source.addEventListener("end", function (event) {
    show(JSON.parse(event.data));
    document.documentElement.setAttribute("data-ended", "yes");
    source.close();
  });
  source.addEventListener("error", function () {
    if (source.readyState === EventSource.CLOSED) { state.textContent = "The connection is gone: bmp watch was ended."; }
  });
})();
