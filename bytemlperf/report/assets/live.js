"use strict";
(function () {
  var canvas = document.getElementById("live"), state = document.getElementById("state"), failures = document.getElementById("failures");
  var MOST = 3600;
  var series = { t: [], ttft: [[], [], []], tpot: [[], [], []], tokens: [], answers: [], flight: [] };
  var stale = false;

  function line(name, y, axis, colour, legend) {
    return { type: "scatter", mode: "lines", name: name, x: series.t, y: y, xaxis: "x", yaxis: axis, connectgaps: false, showlegend: !!legend,
      line: { width: 1.6, color: colour }, hovertemplate: name + " %{y:.4~g}<extra></extra>" };
  }
  function plot() {
    var data = [
      line("p50", series.ttft[0], "y", "@0", true), line("p99", series.ttft[1], "y", "@1", true), line("slowest", series.ttft[2], "y", "@3", true),
      line("p50", series.tpot[0], "y2", "@0"), line("p99", series.tpot[1], "y2", "@1"), line("slowest", series.tpot[2], "y2", "@3"),
      line("tokens/s", series.tokens, "y3", "@2"), line("requests/s", series.answers, "y4", "@4"), line("in flight", series.flight, "y5", "@7")
    ];
    var layout = { xaxis: { title: "seconds", anchor: "y5", rangemode: "tozero" } };
    [["TTFT, ms", 0.76, 1], ["TPOT, ms", 0.51, 0.72], ["tokens/s", 0.34, 0.47], ["requests/s", 0.17, 0.3], ["in flight", 0, 0.13]].forEach(function (panel, at) {
      layout["yaxis" + (at ? at + 1 : "")] = { title: panel[0], domain: [panel[1], panel[2]], rangemode: "tozero", nticks: 4, anchor: "x" };
    });
    return { data: data, layout: layout, height: 720 };
  }
  function draw() { stale = false; window.bmp.draw(canvas, plot()); }
  function later() { if (!stale) { stale = true; requestAnimationFrame(draw); } }
  window.bmp.redraw.push(draw);

  function put(id, text) { document.getElementById(id).textContent = text; }
  function number(value) {
    if (value === null || value === undefined) { return "–"; }
    return value.toLocaleString("en", { maximumSignificantDigits: value >= 1000 ? 6 : 4 });
  }
  function push(list, value) { list.push(value); if (list.length > MOST) { list.shift(); } }
  function tick(event) {
    var now = JSON.parse(event.data);
    push(series.t, now.t);
    ["ttft", "tpot"].forEach(function (name) {
      for (var at = 0; at < 3; at++) { push(series[name][at], now[name] ? now[name][at] : null); }
    });
    push(series.tokens, now.tokens_s); push(series.answers, now.answers_s); push(series.flight, now.in_flight);
    put("done", number(now.ended)); put("done-detail", now.scheduled ? "of " + number(now.scheduled) : "");
    put("ttft", now.ttft_all[0]); put("ttft-detail", "p99 ≈ " + now.ttft_all[1] + " ms");
    put("tpot", now.tpot_all[0]); put("tpot-detail", "p99 ≈ " + now.tpot_all[1] + " ms");
    put("tokens", number(now.tokens_s)); put("tokens-detail", number(now.tokens) + " in all");
    put("flight", number(now.in_flight)); put("failed", number(now.failed));
    state.textContent = "Running for " + number(Math.round(now.t)) + " s.";
    failures.hidden = !now.failed;
    failures.textContent = "";
    Object.keys(now.failures).forEach(function (name) {
      var item = document.createElement("li");
      item.textContent = name + ": " + number(now.failures[name]);
      failures.appendChild(item);
    });
    later();
    document.documentElement.setAttribute("data-ticks", String(series.t.length));
  }
  var source = new EventSource("events");
  source.addEventListener("tick", tick);
  source.addEventListener("end", function (event) {
    state.textContent = JSON.parse(event.data).says;
    document.documentElement.setAttribute("data-ended", "yes");
    source.close();
  });
  source.addEventListener("error", function () {
    if (source.readyState === EventSource.CLOSED) { state.textContent = "The connection is gone: the run has ended, or was stopped."; }
  });
})();
