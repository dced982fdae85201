(function () {
  "use strict";
  var line = document.getElementById("state");
  var frame = document.getElementById("report");
  var root = document.documentElement;
  var place = 0, page = 0;
  frame.addEventListener("load", function () { frame.contentWindow.scrollTo(0, place); });
  function show(state) {
    line.textContent = state.says;
    if (state.page !== page) {
      page = state.page;
      place = frame.contentWindow ? frame.contentWindow.scrollY : 0;
      frame.src = "report?" + page;
      root.setAttribute("data-records", String(state.records));
    }
    if (state.ended) { root.setAttribute("data-ended", "yes"); } else { setTimeout(ask, 1000); }
  }
  function ask() {
    fetch("state").then(function (answer) { return answer.json(); }).then(show, function () {
      line.textContent = "The connection is gone: bmp watch was ended.";
      setTimeout(ask, 1000);
    });
  }
  ask();
})();
