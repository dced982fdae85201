"use strict";
(function () {
  var root = document.documentElement;
  var holder = document.getElementById("plots");
  var plots = holder ? JSON.parse(holder.textContent) : [];
  var printing = false;

  function style(name) { return getComputedStyle(root).getPropertyValue(name).trim(); }
  var theme = new URLSearchParams(location.search).get("theme"); // a site's page that led here says which
  if (/^(light|dark)$/.test(theme)) { root.setAttribute("data-theme", theme); }
  function isDark() {
    var asked = root.getAttribute("data-theme");
    return asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  // -- text: plotly reads some markup in strings; only these four tags, without attributes, may act
  var KEPT = /&lt;(\/?b|\/?i|br|extra|\/extra)&gt;/g;
  function inert(text) {
    return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(KEPT, "<$1>");
  }
  var COLOUR = /^@(\d)(?:\/(0?\.\d+))?$/;
  function painted(text) {
    var found = COLOUR.exec(text);
    if (!found) { return null; }
    var hex = style("--p" + found[1]);
    if (!found[2]) { return hex; }
    var parts = [1, 3, 5].map(function (at) { return parseInt(hex.slice(at, at + 2), 16); });
    return "rgba(" + parts.join(",") + "," + found[2] + ")";
  }
  function prepared(value) {
    if (typeof value === "string") { return painted(value) || inert(value); }
    if (Array.isArray(value)) { return value.map(prepared); }
    if (value && typeof value === "object") {
      var copy = {};
      Object.keys(value).forEach(function (key) { copy[key] = prepared(value[key]); });
      return copy;
    }
    return value;
  }
  function merged(base, over) {
    var result = Object.assign({}, base);
    Object.keys(over).forEach(function (key) {
      var both = result[key] && over[key] && typeof result[key] === "object" && typeof over[key] === "object";
      result[key] = both && !Array.isArray(over[key]) ? merged(result[key], over[key]) : over[key];
    });
    return result;
  }

  function layoutOf(plot) {
    var ink = style("--ink"), soft = style("--soft"), grid = style("--grid"), line = style("--line");
    var axis = {
      gridcolor: grid, linecolor: line, zerolinecolor: line, tickcolor: line, color: soft, automargin: true,
      title: { standoff: 8, font: { size: 12, color: soft } }
    };
    var base = {
      height: plot.height, autosize: true, margin: { l: 56, r: 16, t: 10, b: 40 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
      colorway: [0, 1, 2, 3, 4, 5, 6, 7].map(function (n) { return style("--p" + n); }),
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
      hoverlabel: { bgcolor: style("--panel"), bordercolor: line, font: { color: ink, size: 12 }, align: "left" },
      hovermode: "closest", bargap: 0.06, dragmode: "zoom"
    };
    var own = prepared(plot.layout);
    var layout = merged(base, own);
    if (!layout.xaxis) { layout.xaxis = {}; }
    if (!layout.yaxis) { layout.yaxis = {}; }
    Object.keys(layout).forEach(function (key) {
      if (/^[xy]axis\d*$/.test(key)) { layout[key] = merged(axis, named(layout[key])); }
    });
    return layout;
  }
  function named(axis) {
    return typeof axis.title === "string" ? Object.assign({}, axis, { title: { text: axis.title } }) : axis;
  }
  var CONFIG = { displayModeBar: false, displaylogo: false, responsive: true, showTips: false, plotlyServerURL: "", doubleClick: "reset" };

  function drawPlot(canvas, plot) {
    var layout = layoutOf(plot);
    var named = plot.data.filter(function (trace) { return trace.name && trace.showlegend !== false; }).length;
    if (named > MOST_NAMES && layout.showlegend !== false) {  // a long legend gets room of its own
      var room = LEGEND_LINE * Math.ceil(named / Math.max(1, Math.floor(canvas.clientWidth / LEGEND_WIDTH)));
      layout.height += room;
      layout.legend = merged(layout.legend, { maxheight: room + LEGEND_LINE });
    }
    if (printing) { layout.width = PRINT_WIDTH; }  // not the window's: print styles stretch it to the paper's
    Plotly.react(canvas, prepared(plot.data), layout, CONFIG);
    canvas.querySelectorAll(".main-svg").forEach(function (svg) {
      if (printing) { svg.setAttribute("viewBox", "0 0 " + PRINT_WIDTH + " " + layout.height); } else { svg.removeAttribute("viewBox"); }
    });
  }
  function draw(canvas) { drawPlot(canvas, plots[Number(canvas.getAttribute("data-plot"))]); }
  window.bmp = { draw: drawPlot, redraw: [] };
  var PRINT_WIDTH = 688;  // CSS pixels of A4 within page.css's margins
  var MOST_NAMES = 12, LEGEND_LINE = 20, LEGEND_WIDTH = 200;
  function canvases() { return Array.prototype.slice.call(document.querySelectorAll(".canvas[data-plot]")); }
  function drawAll() { canvases().forEach(draw); window.bmp.redraw.forEach(function (again) { again(); }); }

  // -- the values behind a plot, for reading without a pointer: made when asked for
  var MOST_ROWS = 500;
  function valuesOf(plot) {
    var rows = [];
    plot.data.forEach(function (trace) {
      var xs = trace.x || [], ys = trace.y || [], n = Math.max(xs.length, ys.length);
      for (var at = 0; at < n; at++) {
        if (xs[at] !== null || ys[at] !== null) { rows.push([trace.name || "", xs[at], ys[at]]); }
      }
    });
    return rows;
  }
  function titleOf(axis, other) {
    var title = axis && axis.title;
    return (title && title.text) || (typeof title === "string" && title) || other;
  }
  function tableOf(plot) {
    var rows = valuesOf(plot), box = document.createElement("div"), table = document.createElement("table");
    box.className = "scroll"; box.tabIndex = 0;
    var heads = ["series", titleOf(plot.layout.xaxis, "x"), titleOf(plot.layout.yaxis, "y")];
    var head = table.createTHead().insertRow();
    heads.forEach(function (text) {
      var cell = document.createElement("th"); cell.scope = "col"; cell.textContent = text; head.appendChild(cell);
    });
    var body = table.createTBody();
    rows.slice(0, MOST_ROWS).forEach(function (row) {
      var line = body.insertRow();
      row.forEach(function (value) { line.insertCell().textContent = value === undefined || value === null ? "–" : String(value); });
    });
    box.appendChild(table);
    if (rows.length > MOST_ROWS) {
      var note = document.createElement("p");
      note.className = "note"; note.textContent = "the first " + MOST_ROWS + " of " + rows.length + " values";
      box.appendChild(note);
    }
    return box;
  }

  // -- light and dark
  var button = document.getElementById("theme");
  function sayTheme() { button.textContent = isDark() ? "Light" : "Dark"; }
  if (button) {
    button.hidden = false;
    sayTheme();
    button.addEventListener("click", function () {
      root.setAttribute("data-theme", isDark() ? "light" : "dark");
      sayTheme(); drawAll();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", function () { if (!printing) { sayTheme(); drawAll(); } });
  }
  addEventListener("beforeprint", function () {
    var before = root.getAttribute("data-theme");
    printing = true;
    root.setAttribute("data-theme", "light");
    document.querySelectorAll("details.fold").forEach(function (fold) { if (!fold.open) { fold.open = true; fold.setAttribute("data-was", "shut"); } });
    if (plots.length) { drawAll(); }
    addEventListener("afterprint", function () {
      if (before) { root.setAttribute("data-theme", before); } else { root.removeAttribute("data-theme"); }
      document.querySelectorAll("details[data-was]").forEach(function (fold) { fold.open = false; fold.removeAttribute("data-was"); });
      printing = false;
      if (plots.length) { drawAll(); }
    }, { once: true });
  });

  document.querySelectorAll(".code .copy").forEach(function (copy) {
    if (!navigator.clipboard) { return; }
    copy.hidden = false;
    copy.addEventListener("click", function () {
      navigator.clipboard.writeText(copy.parentNode.querySelector("code").textContent).then(function () { copy.textContent = "Copied"; });
    });
  });

  if (plots.length) {
    document.querySelectorAll("figure.plot").forEach(function (figure) {
      var details = figure.querySelector(".values"), plot = plots[Number(figure.querySelector(".canvas").getAttribute("data-plot"))];
      if (!valuesOf(plot).length) { return; }
      details.hidden = false;
      details.addEventListener("toggle", function () {
        if (details.open && details.children.length === 1) { details.appendChild(tableOf(plot)); }
      });
    });
    var waiting = canvases();
    waiting.forEach(function (canvas) { canvas.style.minHeight = plots[Number(canvas.getAttribute("data-plot"))].height + "px"; });
    (function next() {
      var until = performance.now() + 40;
      while (waiting.length && performance.now() < until) { draw(waiting.shift()); }
      if (waiting.length) { setTimeout(next, 0); } else { root.setAttribute("data-drawn", "yes"); }
    })();
  } else {
    root.setAttribute("data-drawn", "yes");
  }
})();
