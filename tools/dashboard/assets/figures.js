"use strict";
// All figures, as descriptions for Plotly: the same functions draw the page and the Dash app, which
// finds them as clientside callbacks. Data goes in, a figure comes out; nothing here touches a page
// but to read the colours of its style sheet.
(() => {
  // Colour-blind safe (Okabe and Ito), each with a marker of its own.
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8F6A00"];
  const MARKERS = ["circle", "square", "diamond", "triangle-up", "x", "star", "cross"];
  const VERDICTS = {
    pass: ["#009E73", "circle"],
    expected: ["#B8A800", "square"],
    unexpected: ["#D55E00", "x"],
  };
  const UNITS = {
    latency: { title: "median latency (ms)", scale: 1e-3, suffix: " ms" }, // from µs
    memory: { title: "peak memory (MiB)", scale: 1 / 1024, suffix: " MiB" }, // from KiB
    cost: { title: "cost of 1,000 calls ($)", scale: 1, suffix: " $" },
  };

  // Plotly reads <b>, <a> and <br> in any text: foreign text must not be taken for such.
  const text = (value) =>
    String(value).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);

  function layout(more) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      automargin: true,
      gridcolor: colour("--line"),
      linecolor: colour("--line"),
      zeroline: false,
    };
    const narrow = window.innerWidth < 640;
    return {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), family: "system-ui, sans-serif", size: narrow ? 11 : 13 },
      margin: { l: narrow ? 8 : 60, r: narrow ? 8 : 16, t: 16, b: 48 },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
      hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"),
                    font: { color: colour("--ink") }, align: "left" },
      hovermode: "closest",
      ...more,
      xaxis: { ...axis, ...more.xaxis },
      yaxis: { ...axis, ...more.yaxis },
    };
  }

  const empty = (why) => ({
    data: [],
    layout: layout({
      xaxis: { visible: false },
      yaxis: { visible: false },
      annotations: [{ text: text(why), showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 }],
    }),
  });

  // A measure of one cell over the runs.
  // {measure, name, points: [{run, started, value, verdict}], changes: [{run, text, worse}]}
  function trend(data) {
    const unit = data && UNITS[data.measure];
    const points = (data?.points ?? []).filter((point) => point.value !== null);
    if (!points.length) return empty(data?.why ?? "Nothing was measured.");
    const x = points.map((point) => point.run);
    const traces = [{
      type: "scatter", mode: "lines", x, y: points.map((p) => p.value * unit.scale),
      line: { color: COLOURS[0], width: 1.5 }, hoverinfo: "skip", showlegend: false,
    }];
    for (const [verdict, [colour, symbol]] of Object.entries(VERDICTS)) {
      const mine = points.filter((point) => point.verdict === verdict);
      if (!mine.length) continue;
      traces.push({
        type: "scatter", mode: "markers", name: verdict, x: mine.map((p) => p.run),
        y: mine.map((p) => p.value * unit.scale), marker: { color: colour, symbol, size: 7 },
        text: mine.map((p) => text(p.started ?? "")),
        hovertemplate: `%{x}<br>%{text}<br>%{y:.4~g}${unit.suffix}<br>${verdict}<extra></extra>`,
      });
    }
    const changes = (data.changes ?? []).filter((change) => x.includes(change.run));
    return {
      data: traces,
      layout: layout({
        height: 400,
        xaxis: { type: "category", categoryorder: "array", categoryarray: x,
                 tickangle: 0, tickvals: ticks(x), ticktext: ticks(x).map((run) => text(run.slice(0, 8))) },
        yaxis: { title: { text: unit.title }, rangemode: "tozero" },
        shapes: changes.map((change) => ({
          type: "line", xref: "x", yref: "paper", x0: change.run, x1: change.run, y0: 0, y1: 1,
          line: { color: change.worse ? "#D55E00" : "#009E73", width: 2, dash: "dot" },
        })),
        annotations: changes.map((change) => ({
          x: change.run, yref: "paper", y: 0, yanchor: "bottom", xanchor: "right", showarrow: false,
          text: (change.worse ? "▲ " : "▼ ") + text(change.text), textangle: -90, font: { size: 11 },
        })),
      }),
    };
  }

  // 1, 2 and 5 of each decade, or all digits of few: Plotly would label 20 as "2".
  function logarithmic(title, values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const digits = high / low < 8 ? [1, 2, 3, 4, 5, 6, 7, 8, 9] : [1, 2, 5];
    const tickvals = [];
    for (let decade = Math.floor(Math.log10(low)); decade <= Math.log10(high) + 1; decade += 1) {
      for (const digit of digits) tickvals.push(Number((digit * 10 ** decade).toPrecision(1)));
    }
    return { type: "log", title: { text: title }, tickvals,
             ticktext: tickvals.map((value) => value.toLocaleString("en", { maximumFractionDigits: 9 })) };
  }

  function ticks(runs) {
    const every = Math.ceil(runs.length / (window.innerWidth < 640 ? 3 : 8));
    return runs.filter((_, index) => index % every === 0);
  }

  // Families beside each other on each device, with the range of their calls.
  // {measure, columns: [label], rows: [{family, values: [{value, low, high, estimated} | null]}]}
  function comparison(data) {
    const unit = UNITS[data.measure];
    const traces = data.columns.flatMap((column, index) =>
      [false, true].map((estimated) => {
        const rows = data.rows.filter(
          (row) => row.values[index] && Boolean(row.values[index].estimated) === estimated);
        const values = rows.map((row) => row.values[index]);
        return {
          type: "scatter", mode: "markers",
          name: text(column) + (estimated ? " (predicted)" : ""),
          y: rows.map((row) => text(row.family)), x: values.map((v) => v.value * unit.scale),
          error_x: { type: "data", symmetric: false, thickness: 1.5, width: 3,
                     array: values.map((v) => ((v.high ?? v.value) - v.value) * unit.scale),
                     arrayminus: values.map((v) => (v.value - (v.low ?? v.value)) * unit.scale) },
          marker: { color: COLOURS[index % 7], size: 9, symbol: MARKERS[index % 7] + (estimated ? "-open" : "") },
          hovertemplate: `%{y}<br>%{x:.4~g}${unit.suffix}<extra>${text(column)}${estimated ? ", predicted" : ""}</extra>`,
        };
      })).filter((trace) => trace.x.length);
    if (!traces.length) return empty("Nothing was measured for this choice.");
    return {
      data: traces,
      layout: layout({
        height: 120 + 22 * data.rows.length,
        xaxis: logarithmic(unit.title, traces.flatMap((trace) => trace.x)),
        yaxis: { autorange: "reversed", type: "category" },
      }),
    };
  }

  // Each family on two devices: on the diagonal they are equal.
  // {measure, x: label, y: label, points: [{family, x, y}]}
  function against(data) {
    const unit = UNITS[data.measure];
    if (!data.points.length) return empty("No family was measured on both.");
    const xs = data.points.map((point) => point.x * unit.scale);
    const ys = data.points.map((point) => point.y * unit.scale);
    const ends = [Math.min(...xs, ...ys), Math.max(...xs, ...ys)];
    return {
      data: [
        { type: "scatter", mode: "lines", x: ends, y: ends, name: "equal", hoverinfo: "skip",
          line: { color: "#8a94a0", dash: "dash", width: 1.5 } },
        { type: "scatter", mode: "markers", name: "a family", x: xs, y: ys,
          text: data.points.map((point) => text(point.family)),
          marker: { color: COLOURS[0], size: 8, opacity: 0.75 },
          hovertemplate: `%{text}<br>${text(data.x)}: %{x:.4~g}${unit.suffix}<br>${text(data.y)}: %{y:.4~g}${unit.suffix}<extra></extra>` },
      ],
      layout: layout({
        height: 440, showlegend: false,
        xaxis: logarithmic(`${text(data.x)}: ${unit.title}`, xs),
        yaxis: logarithmic(`${text(data.y)}: ${unit.title}`, ys),
      }),
    };
  }

  // What ran when on which machine, a lane for each that ran at once.
  // {jobs: [{name, node, start, seconds, status, retries}], colours: {status: colour}}
  function timeline(data) {
    if (!data?.jobs?.length) return empty("This run has no record yet.");
    const lanes = lanesOf(data.jobs);
    const statuses = [...new Set(data.jobs.map((job) => job.status))].sort();
    return {
      data: statuses.map((status) => {
        const jobs = data.jobs.filter((job) => job.status === status);
        return {
          type: "bar", orientation: "h", name: status, y: jobs.map((job) => lanes.get(job)),
          base: jobs.map((job) => job.start), x: jobs.map((job) => job.seconds),
          text: jobs.map((job) => text(job.name) + (job.retries ? `, tried ${job.retries + 1} times` : "")),
          textposition: "none",
          marker: { color: data.colours[status] ?? "#9AA5B1",
                    line: { color: jobs.map((job) => (job.retries ? "#D55E00" : "rgba(128,128,128,0.6)")),
                            width: jobs.map((job) => (job.retries ? 2 : 0.5)) } },
          hovertemplate: `%{text}<br>%{x:.1f} s, from %{base:.1f} s<br>${status}<extra></extra>`,
        };
      }),
      layout: layout({
        barmode: "overlay", bargap: 0.15,
        height: 140 + 30 * new Set(lanes.values()).size,
        xaxis: { title: { text: "seconds since the first script began" }, rangemode: "tozero" },
        yaxis: { type: "category", autorange: "reversed", categoryorder: "category ascending" },
      }),
    };
  }

  // The label of the lane of each job: the first of its machine that is free when it begins.
  function lanesOf(jobs) {
    const ends = new Map();
    const lanes = new Map();
    for (const job of [...jobs].sort((a, b) => a.start - b.start)) {
      const mine = ends.get(job.node) ?? [];
      let lane = mine.findIndex((end) => end <= job.start + 0.05);
      if (lane < 0) lane = mine.length;
      mine[lane] = job.start + job.seconds;
      ends.set(job.node, mine);
      lanes.set(job, `${text(job.node)} · ${lane + 1}`);
    }
    return lanes;
  }

  // How many cells have which outcome, by device.
  // {columns: [label], outcomes: [{word, colour, counts: [number]}]}
  function counts(data) {
    if (!data?.columns?.length) return empty("No record yet.");
    return {
      data: data.outcomes.filter((outcome) => outcome.counts.some(Boolean)).map((outcome) => ({
        type: "bar", orientation: "h", name: text(outcome.word), y: data.columns.map(text),
        x: outcome.counts, marker: { color: outcome.colour },
        hovertemplate: `%{y}: %{x} ${text(outcome.word)}<extra></extra>`,
      })),
      layout: layout({ barmode: "stack", height: 110 + 34 * data.columns.length,
                       xaxis: { title: { text: "cells" } }, yaxis: { autorange: "reversed" } }),
    };
  }

  window.figures = { trend, comparison, against, timeline, counts };
  window.dash_clientside = Object.assign({}, window.dash_clientside, { figures: window.figures });
})();
