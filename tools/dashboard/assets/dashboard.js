"use strict";
// The page: unpacks its data, and shows the view that its address names. What is foreign goes into
// the page as text only, never as markup. History and Plotly are unpacked when a view asks for them.
(() => {
  const main = document.querySelector("main");
  const dialog = document.querySelector("dialog");
  const $ = (selector, from = document) => from.querySelector(selector);

  // Making elements.
  function el(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value != null) element.setAttribute(name, value);
    }
    element.append(...children.flat().filter((child) => child != null && child !== false));
    return element;
  }
  const table = (caption, head, rows, attributes) =>
    el("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: 0 },
      el("table", attributes,
        el("thead", {}, el("tr", {}, head.map((title, index) =>
          el("th", { scope: "col", class: rows[0]?.[index]?.className === "number" ? "number" : null }, title)))),
        el("tbody", {}, rows.map(([first, ...rest]) => el("tr", {}, el("th", { scope: "row" }, first),
          rest.map((cell) => cell instanceof HTMLTableCellElement ? cell : el("td", {}, cell)))))));
  const number = (value) => el("td", { class: "number" }, value);
  const facts = (pairs) =>
    el("dl", { class: "facts" }, pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  const tiles = (list) => el("dl", { class: "tiles" }, list.map(([name, value, note]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value, note && el("span", { class: "note" }, note)))));

  // Values as text.
  const NOTHING = "n/a";
  const digits = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });
  const FORMS = {
    latency: (us) => `${digits(us / 1000)} ms`,
    memory: (kib) => `${digits(kib / 1024)} MiB`,
    cost: (dollars) => `$${digits(dollars)}`,
    seconds: (value) => `${value.toFixed(1)} s`,
    count: (value) => value.toLocaleString("en"),
  };
  const shown = (form, value) => (value == null ? NOTHING : FORMS[form](value));

  // Unpacking.
  async function unpack(name) {
    const packed = document.getElementById(`packed-${name}`).textContent;
    const bytes = Uint8Array.fromBase64?.(packed) ?? Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }
  const once = {};
  const history = () => (once.history ??= unpack("history").then(JSON.parse));
  const plotly = () => (once.plotly ??= unpack("plotly").then((code) => {
    document.head.append(el("script", {}, code));
    return window.Plotly;
  }));

  async function draw(element, figure, label) {
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", label);
    const drawn = await plotly();
    if (element.isConnected) {
      await drawn.react(element, figure.data, figure.layout, { responsive: true, displaylogo: false });
    }
  }

  // The address.
  const parameters = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const address = (changes) => "#" + new URLSearchParams(changes);
  function remember(changes) {
    const all = { ...parameters(), ...changes };
    for (const name of Object.keys(all)) if (!all[name]) delete all[name];
    window.history.replaceState(null, "", address(all));
  }

  let data, columns, families, outcomes;

  // Parts that several views have.
  const badge = (key, words) =>
    el("span", { class: `badge ${key}` }, words ?? `${outcomes[key].symbol} ${outcomes[key].word}`);
  function bar(counts) {
    const told = Object.entries(counts).filter(([, n]) => n);
    const label = told.map(([key, n]) => `${n} ${outcomes[key].word}`).join(", ");
    return el("div", { class: "bar", role: "img", "aria-label": label, title: label },
      told.map(([key, n]) => el("span", { class: key, style: `flex: ${n}` })));
  }
  const cellOf = (family, column) => family.cells[column.id];
  const outcomeOf = (family, column) => cellOf(family, column)?.outcome ?? "not_run";
  const cellWords = (cell) => {
    const outcome = outcomes[cell?.outcome ?? "not_run"];
    const score = cell?.total ? ` ${cell.passed}/${cell.total}` : "";
    return `${outcome.symbol} ${outcome.word}${score}${cell && !cell.complete ? " ⚠ incomplete" : ""}`;
  };
  const commandBlock = (command) => {
    const block = el("pre", { class: "command" }, command);
    const button = el("button", { type: "button", async onclick() {
      try {
        await navigator.clipboard.writeText(command);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(block);
        button.textContent = "Selected: copy it with the keyboard";
      }
    } }, "Copy command");
    return [block, button];
  };
  const option = (value, label, chosen) => el("option", { value, selected: value === chosen }, label);
  const select = (name, title, options, chosen) =>
    el("label", {}, title, el("select", { name }, options.map(([v, label]) => option(v, label, chosen))));
  const search = (chosen, placeholder) =>
    el("label", {}, "Search", el("input", { type: "search", name: "text", value: chosen, placeholder }));
  const output = () => el("output", { "aria-live": "polite" });

  // A form whose fields are in the address; `change` is called now and at each change.
  function filters(label, children, change) {
    const form = el("form", { class: "filters", "aria-label": label,
      onsubmit: (event) => event.preventDefault(),
      oninput: () => { const values = Object.fromEntries(new FormData(form)); remember(values); change(values); },
    }, children);
    return [form, () => change(Object.fromEntries(new FormData(form)))];
  }
  const familyMatches = (family, { text, architecture }) =>
    (!architecture || family.architecture === architecture) &&
    (text ?? "").toLowerCase().split(/\s+/).filter(Boolean).every((word) => family.searched.includes(word));
  const architectures = () => [["", "all"], ...[...new Set(families.map((f) => f.architecture))].map((a) => [a, a])];
  const changeLine = (change) => [
    el("a", { href: change.family in byName
      ? address({ view: "history", family: change.family, device: change.column, measure: change.measure === "memory" ? "memory" : "latency" })
      : address({ view: "history", device: change.column }) }, change.family),
    change.label,
    el("span", { class: change.worse ? "worse" : "better" }, `${change.worse ? "▲ worse" : "▼ better"}: ${change.text}`),
    change.run,
    change.causes.join("; ") || "nothing else that the records know of",
  ];
  const CHANGE_HEAD = ["family", "device", "change", "since run", "changed with it"];
  let byName;

  // The views.
  const views = {
    overview() {
      const warning = data.runs.filter((run) => !run.complete);
      const real = { real: 0, mock: 0 };
      for (const family of families) {
        for (const cell of Object.values(family.cells)) if (cell.inference) real[cell.inference] += 1;
      }
      const cells = families.length * columns.length;
      const passing = columns.reduce((sum, column) => sum + column.counts.pass, 0);
      const groups = Map.groupBy(families, (family) => family.architecture);
      main.replaceChildren(
        el("h2", {}, "Overview"),
        warning.length ? el("div", { class: "warning", role: "note", "aria-label": "Warning" },
          el("strong", {}, "⚠ Incomplete runs: this matrix is not whole."),
          el("ul", {}, warning.map((run) => el("li", {},
            `${run.run_id} finished ${run.finished} of ${run.asked} scripts; ${run.cells} cells here come from it`)))) : "",
        tiles([
          ["families", FORMS.count(families.length), `${groups.size} architectures`],
          ["devices", columns.length, columns.map((column) => column.label).join(", ")],
          ["cells that pass every check", `${digits((100 * passing) / cells)} %`, `${FORMS.count(passing)} of ${FORMS.count(cells)}`],
          ["real inference", FORMS.count(real.real), `${FORMS.count(real.mock)} by a stand-in, which never pass`],
          ["worse since the last runs", FORMS.count(data.changes.filter((change) => change.recent).length),
            `${FORMS.count(data.history_runs)} runs of history`],
        ]),
        el("h2", {}, "Devices"),
        table("Outcomes by device", ["device", "outcomes", "pass", ...warnKeys().map((key) => outcomes[key].word)],
          columns.map((column) => [
            el("a", { href: address({ view: "matrix", only: column.id }) }, column.label),
            el("td", { style: "min-width: 10rem; width: 40%" }, bar(column.counts)),
            number(FORMS.count(column.counts.pass)),
            ...warnKeys().map((key) => number(FORMS.count(column.counts[key]))),
          ])),
        el("h2", {}, "What got worse"),
        changesTable(data.changes.filter((change) => change.recent), "Nothing got worse in the last runs."),
        el("h2", {}, "Architectures"),
        table("Outcomes by architecture and device", ["architecture", "families", ...columns.map((c) => c.label)],
          [...groups].map(([architecture, members]) => [
            el("a", { href: address({ view: "matrix", architecture }) }, architecture),
            number(members.length),
            ...columns.map((column) => {
              const counts = Object.groupBy(members, (family) => outcomeOf(family, column));
              return bar(Object.fromEntries(Object.keys(outcomes).map((key) => [key, counts[key]?.length ?? 0])));
            }),
          ])),
        el("h2", {}, "Legend"), legend());
    },

    matrix() {
      const chosen = parameters();
      const links = [];
      const rows = families.map((family) => {
        const row = el("tr", {},
          el("th", { scope: "row" }, el("a", { href: `${data.scripts}/${encodeURIComponent(family.script)}` }, family.family)),
          el("td", { class: "wide" }, family.architecture),
          columns.map((column) => {
            const cell = cellOf(family, column);
            const words = cellWords(cell);
            const outcome = outcomeOf(family, column);
            const short = cell?.total ? `${outcomes[outcome].symbol} ${cell.passed}/${cell.total}` : `${outcomes[outcome].symbol} ${outcomes[outcome].word}`;
            const link = cell
              ? el("a", { class: `cell ${outcome}`, tabindex: -1, href: address({ family: family.family, device: column.id }),
                          "aria-label": `${family.family} on ${column.label}: ${words}`, title: words }, short)
              : el("span", { class: `cell ${outcome}`, title: words }, short);
            if (cell) links.push(link);
            return el("td", { "data-column": column.id }, link);
          }));
        return { family, row };
      });
      if (links.length) links[0].tabIndex = 0;
      const body = el("tbody", { onkeydown: moveByArrows }, rows.map(({ row }) => row));
      const heads = ["family", "architecture", ...columns.map((column) => column.label)].map((title, index) =>
        el("th", { scope: "col", class: index === 1 ? "wide" : null, "data-column": columns[index - 2]?.id },
          el("button", { type: "button", onclick: (event) => sortBy(index, event.currentTarget.parentElement) }, title)));
      const worst = (family, list) => Math.max(...list.map((c) => data.order[outcomeOf(family, c)]));
      const keys = {
        0: ({ family }) => family.family,
        1: ({ family }) => family.architecture,
      };
      function sortBy(index, head) {
        const down = head.getAttribute("aria-sort") === "ascending";
        const key = keys[index] ?? (({ family }) => data.order[outcomeOf(family, columns[index - 2])]);
        const collator = new Intl.Collator("en", { numeric: true });
        rows.sort((a, b) => (down ? -1 : 1) * collator.compare(key(a), key(b)));
        body.append(...rows.map(({ row }) => row));
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
      }
      function order({ sort }) {
        const list = [...rows];
        const collator = new Intl.Collator("en", { numeric: true });
        const slowest = (family) => Math.max(-1, ...columns.map((c) => cellOf(family, c)?.latency_median ?? -1));
        if (sort === "worst") list.sort((a, b) => worst(b.family, columns) - worst(a.family, columns));
        else if (sort === "slowest") list.sort((a, b) => slowest(b.family) - slowest(a.family));
        else if (sort === "name") list.sort((a, b) => collator.compare(a.family.family, b.family.family));
        body.append(...list.map(({ row }) => row));
      }
      const told = output();
      let sorted = null;
      const [form, apply] = filters("Filter the matrix", [
        search(chosen.text, "family, class, reason …"),
        select("architecture", "Architecture", architectures(), chosen.architecture),
        select("outcome", "Outcome", [["", "all"], ...Object.values(outcomes).map((o) => [o.key, `${o.symbol} ${o.word}`])], chosen.outcome),
        select("only", "Device", [["", "all"], ...columns.map((c) => [c.id, c.label])], chosen.only),
        select("sort", "Sort by", [["", "architecture"], ["name", "name"], ["worst", "worst first"], ["slowest", "slowest first"]], chosen.sort),
        told,
      ], (values) => {
        const inDevice = columns.filter((column) => !values.only || column.id === values.only);
        let count = 0;
        for (const { family, row } of rows) {
          const matches = familyMatches(family, values) &&
            (!values.outcome || inDevice.some((column) => outcomeOf(family, column) === values.outcome));
          row.hidden = !matches;
          count += matches;
        }
        for (const cell of grid.querySelectorAll("[data-column]")) {
          cell.hidden = Boolean(values.only) && cell.dataset.column !== values.only;
        }
        if (values.sort !== sorted) order(values);
        sorted = values.sort;
        told.textContent = `${count} of ${rows.length} families`;
      });
      const grid = el("table", { id: "heat" }, el("thead", {}, el("tr", {}, heads)), body);
      main.replaceChildren(
        el("h2", {}, "Compatibility"),
        form,
        el("div", { class: "scroll", role: "region", tabindex: 0,
                    "aria-label": "Matrix of families and devices; move between cells with the arrow keys" }, grid),
        el("h2", {}, "Legend"), legend());
      apply();
    },

    performance() {
      const chosen = parameters();
      const priced = columns.some((column) => column.price != null);
      const measures = [["latency", "latency"], ["memory", "peak memory"], ...(priced ? [["cost", "cost"]] : [])];
      const scatter = el("div", { class: "figure" });
      const plot = el("div", { class: "figure" });
      const numbers = el("div", {});
      const told = output();
      const devices = columns.map((column) => [column.id, column.label]);
      const [form, apply] = filters("Choose what to compare", [
        search(chosen.text, "family …"),
        select("architecture", "Architecture", architectures(), chosen.architecture),
        select("measure", "Measure", measures, chosen.measure),
        columns.length > 1 ? select("x", "Device", devices, chosen.x ?? columns[0].id) : "",
        columns.length > 1 ? select("y", "against", devices, chosen.y ?? columns[1].id) : "",
        told,
      ], (values) => {
        const matching = families.filter((family) => familyMatches(family, values));
        const rows = matching.slice(0, 40).map((family) => ({
          family: family.family,
          values: columns.map((column) => valueOf(family, column, values.measure)),
        }));
        told.textContent = matching.length > 40 ? `the first 40 of ${matching.length} families: search for others` : `${matching.length} families`;
        const labels = columns.map((column) => column.label);
        draw(plot, figures.comparison({ measure: values.measure, columns: labels, rows }),
          `${values.measure} of ${rows.length} families by device; the table below has the numbers`);
        const head = ["family", ...labels, "recommended"];
        numbers.replaceChildren(table("Numbers of the figure", head, rows.map((row) => [
          el("a", { href: address({ view: "history", family: row.family, measure: values.measure === "memory" ? "memory" : "latency" }) }, row.family),
          ...row.values.map((value) => value
            ? number([shown(values.measure, value.value), value.estimated
                ? el("span", { class: "faint" }, ` predicted, ×÷ ${value.error.toFixed(2)}`)
                : value.high > value.low ? el("span", { class: "faint" }, ` ${digits(value.low / 1000)}–${digits(value.high / 1000)}`) : ""])
            : number(NOTHING)),
          recommended(byName[row.family], values.measure),
        ])));
        if (columns.length > 1) {
          const [x, y] = [values.x, values.y].map((id) => columns.find((column) => column.id === id));
          const points = matching.map((family) => ({ family: family.family,
            x: measured(family, x, values.measure), y: measured(family, y, values.measure) }))
            .filter((point) => point.x && point.y);
          draw(scatter, figures.against({ measure: values.measure, x: x.label, y: y.label, points }),
            `${values.measure} of ${points.length} families on ${x.label} against ${y.label}`);
        }
      });
      main.replaceChildren(
        el("h2", {}, "Performance"), form,
        columns.length > 1 ? scatter : "",
        el("h2", {}, "By family"),
        el("p", { class: "faint" }, "Median of the calls, with the quickest and the slowest. ", estimatesNote()),
        plot, numbers);
      apply();
    },

    async history() {
      const chosen = parameters();
      main.replaceChildren(el("p", { role: "status" }, "Unpacking the history …"));
      const past = await history();
      const names = Object.keys(past.series);
      const first = data.changes.find((change) => change.family in past.series) ?? { family: names[0] };
      const family = chosen.family in past.series ? chosen.family : first.family;
      const plot = el("div", { class: "figure" });
      const list = el("div", {});
      const told = output();
      const [form, apply] = filters("Choose a series", [
        el("label", {}, "Family", el("input", { name: "family", list: "families", value: family })),
        select("device", "Device", columns.map((c) => [c.id, c.label]), chosen.device ?? first.column),
        select("measure", "Measure", [["latency", "latency"], ["memory", "peak memory"]], chosen.measure ?? first.measure),
        select("show", "Changes", [["", "of this series"], ["worse", "all that are worse"], ["all", "all"]], chosen.show),
        told,
      ], (values) => {
        const series = past.series[values.family]?.[values.device];
        const mine = data.changes.filter((change) => change.family === values.family && change.column === values.device);
        const points = series ? past.run_lists[series.runs].map((run, index) => ({
          run: past.runs[run].run_id, started: past.runs[run].started,
          value: series[values.measure][index], verdict: past.verdicts[series.verdicts[index]],
        })) : [];
        const column = columns.find((each) => each.id === values.device);
        told.textContent = `${points.length} runs, ${mine.length} changes`;
        const why = values.family in past.series ? `${values.family} was not measured on ${column.label}.` : `There is no family ${values.family}.`;
        draw(plot, figures.trend({ measure: values.measure, points, why,
          changes: mine.filter((change) => change.measure === values.measure || change.measure === "verdict") }),
          `${values.measure} of ${values.family} on ${column.label} in ${points.length} runs; changes: ${mine.map((c) => c.text).join("; ") || "none"}`);
        const wanted = values.show === "all" ? data.changes : values.show === "worse" ? data.changes.filter((change) => change.worse) : mine;
        list.replaceChildren(changesTable(wanted, "Nothing changed."));
      });
      main.replaceChildren(
        el("h2", {}, "History"), form,
        el("datalist", { id: "families" }, names.map((name) => el("option", { value: name }))),
        plot, el("h2", {}, "Changes"), list,
        el("h2", {}, "Runs"),
        table("All runs", ["run", "started", "state", "finished", "devices", "verdicts", "tags", "versions"],
          past.runs.toReversed().map((run) => [
            el("a", { href: address({ view: "runs", run: run.run_id }) }, run.run_id), run.started ?? NOTHING, run.state,
            number(`${run.finished}/${run.asked}`), run.devices.join(", "),
            Object.entries(run.verdicts).map(([verdict, n]) => `${n} ${verdict}`).join(", "),
            run.tags.join(", "), Object.entries(run.versions).map((pair) => pair.join(" ")).join(", "),
          ])));
      apply();
    },

    async runs() {
      const chosen = parameters();
      main.replaceChildren(el("p", { role: "status" }, "Unpacking the history …"));
      const past = await history();
      const ids = Object.keys(past.timelines).toReversed();
      const plot = el("div", { class: "figure" });
      const summary = el("div", {});
      const nodes = el("div", {});
      const [form, apply] = filters("Choose a run", [
        select("run", "Run", ids.map((id) => [id, id]), ids.includes(chosen.run) ? chosen.run : ids[0]),
        chosen.run && !ids.includes(chosen.run)
          ? el("output", {}, `The page keeps the timelines of the last ${ids.length} runs; \`nox -s dashboard\` has all.`) : "",
      ], ({ run }) => {
        const jobs = past.timelines[run] ?? [];
        const wall = Math.max(0, ...jobs.map((job) => job.start + job.seconds));
        const busy = jobs.reduce((sum, job) => sum + job.seconds, 0);
        const again = jobs.reduce((sum, job) => sum + job.retries, 0);
        const machines = Map.groupBy(jobs, (job) => job.node);
        summary.replaceChildren(tiles([
          ["jobs", FORMS.count(jobs.length), `on ${machines.size} ${machines.size === 1 ? "machine" : "machines"}`],
          ["time", shown("seconds", wall)],
          ["at once, on average", wall ? digits(busy / wall) : NOTHING],
          ["tried again", FORMS.count(again)],
        ]));
        draw(plot, figures.timeline({ jobs, colours: data.status_colours }),
          `${jobs.length} jobs of run ${run} over ${shown("seconds", wall)}, a lane for each that ran at once`);
        nodes.replaceChildren(table("Machines", ["machine", "jobs", "seconds of scripts", "tried again", "longest"],
          [...machines].map(([node, mine]) => {
            const longest = mine.reduce((a, b) => (a.seconds > b.seconds ? a : b));
            return [node, number(FORMS.count(mine.length)),
              number(digits(mine.reduce((sum, job) => sum + job.seconds, 0))),
              number(FORMS.count(mine.reduce((sum, job) => sum + job.retries, 0))),
              `${longest.name}, ${shown("seconds", longest.seconds)}`];
          })));
      });
      main.replaceChildren(el("h2", {}, "How a run went"), form, summary, plot, el("h2", {}, "Machines"), nodes);
      apply();
    },

    environment() {
      const names = [...new Set(columns.flatMap((column) => Object.keys(column.facts)))];
      main.replaceChildren(
        el("h2", {}, "Environment"),
        el("p", { class: "faint" }, "What the cells of each device were measured with. Where devices differ is marked."),
        table("Environment by device", ["", ...columns.map((column) => column.label)], names.map((name) => {
          const values = columns.map((column) => column.facts[name] ?? NOTHING);
          const known = new Set(values.filter((value) => value !== NOTHING));
          return [name, ...values.map((value) => el("td", { class: known.size > 1 ? "differs" : null }, value))];
        }), { class: "wrap" }));
    },
  };

  const warnKeys = () => Object.keys(outcomes).filter((key) => key !== "pass" && columns.some((c) => c.counts[key]));
  const legend = () => el("dl", { class: "legend" },
    Object.values(outcomes).flatMap((o) => [el("dt", {}, badge(o.key)), el("dd", {}, o.meaning)]));
  const changesTable = (changes, nothing) => changes.length
    ? table("Changes", CHANGE_HEAD, changes.slice(0, 200).map(changeLine), { class: "wrap" })
    : el("p", {}, nothing);

  // A number of a cell in the unit of the figures (µs, KiB, $), with its range; else its estimate.
  function valueOf(family, column, measure) {
    const value = measured(family, column, measure);
    const cell = cellOf(family, column);
    if (value) {
      const range = measure === "latency" ? [cell.latency_low * 1e6, cell.latency_high * 1e6] : [value, value];
      return { value, low: range[0], high: range[1] };
    }
    const estimate = family.estimates[column.id]?.[measure];
    return estimate ? { value: estimate.value, low: estimate.value / estimate.error, high: estimate.value * estimate.error,
                        error: estimate.error, estimated: true } : null;
  }
  function measured(family, column, measure) {
    const cell = cellOf(family, column);
    if (!cell) return null;
    if (measure === "memory") return cell.peak_memory_bytes / 1024 || null;
    const us = cell.latency_median * 1e6 || null;
    return measure === "latency" ? us : us && column.price != null ? (us / 1e6 / 3600) * column.price * 1000 : null;
  }
  // The best device on which nothing fails, by the measure; software adapters and estimates do not count.
  function recommended(family, measure) {
    const able = columns
      .filter((column) => cellOf(family, column)?.recommendable)
      .map((column) => [column, measured(family, column, measure)])
      .filter(([, value]) => value);
    if (able.length < 2) return el("td", { class: "faint" }, able.length ? `only ${able[0][0].label} is known to pass` : NOTHING);
    const [column, value] = able.reduce((a, b) => (b[1] < a[1] ? b : a));
    return `${column.label}, ${shown(measure, value)}`;
  }
  function estimatesNote() {
    const known = Object.entries(data.estimate_errors);
    return known.length ? "Hollow markers are predicted, not measured: " + known.map(([measure, error]) =>
      `${measure} is within ×÷ ${error.p50.toFixed(2)} for half and ×÷ ${error.p90.toFixed(2)} for nine tenths of the cells left out in cross-validation`).join("; ") + "." : "";
  }

  // Arrow keys move between the cells that are shown.
  function moveByArrows(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const here = event.target.closest("a.cell");
    if (!steps || !here) return;
    event.preventDefault();
    let cell = here.closest("td");
    const index = cell.cellIndex;
    for (;;) {
      if (steps[0]) cell = steps[0] > 0 ? cell.nextElementSibling : cell.previousElementSibling;
      else {
        let row = cell.parentElement;
        do row = steps[1] > 0 ? row.nextElementSibling : row.previousElementSibling; while (row?.hidden);
        cell = row?.cells[index];
      }
      if (!cell) return;
      const link = $("a.cell", cell);
      if (link && !cell.hidden) {
        here.tabIndex = -1;
        link.tabIndex = 0;
        link.focus();
        return;
      }
    }
  }

  // The details of one cell.
  function openCell(family, column) {
    const cell = cellOf(family, column);
    const title = el("h3", { id: "dialog-title" }, `${family.family} on ${column.label}`);
    const parts = [title, el("p", {}, badge(cell?.outcome ?? "not_run", cellWords(cell)))];
    if (!cell) parts.push(el("p", {}, "Nobody has run it there."));
    else {
      for (const check of cell.open_checks) {
        const outcome = outcomes[check.outcome];
        parts.push(el("h4", {}, `${check.name}: ${outcome.symbol} ${outcome.word}${check.outcome === "expected" ? ` ${check.status}` : ""}`));
        if (check.reason) parts.push(el("pre", {}, check.reason));
        const numbers = ["value", "bound"].filter((name) => check[name] != null).map((name) => `${name} ${check[name].toPrecision(3)}`);
        if (numbers.length) parts.push(el("p", {}, numbers.join(", ")));
        if (check.expectation_reason) {
          parts.push(el("p", {}, `Expectation${check.expectation_cause ? ` (cause: ${check.expectation_cause})` : ""}: ${check.expectation_reason}`,
            check.expectation_where ? el("br") : "", check.expectation_where ? `Where: ${check.expectation_where}` : ""));
        }
        parts.push(...commandBlock(check.command));
      }
      if (!cell.measured) parts.push(el("p", {}, `${outcomes[cell.outcome].meaning}${cell.first_reason ? `: ${cell.first_reason}` : ""}`));
      if (cell.passing_checks.length) parts.push(el("h4", {}, "Passing checks"), el("p", {}, cell.passing_checks.join(", ")));
      parts.push(el("h4", {}, "The whole script"), ...commandBlock(cell.command), el("h4", {}, "Facts"));
      const known = [
        ["script", el("a", { href: `${data.scripts}/${encodeURIComponent(family.script)}` }, family.script)],
        ["class", family.model_class], ["checkpoint", cell.checkpoint],
        ["run", `${cell.run_id}${cell.complete ? "" : " (incomplete)"}`],
      ];
      if (cell.measured) {
        known.push(["script took", shown("seconds", cell.seconds)],
          ["median latency", cell.latency_median == null ? NOTHING
            : `${shown("latency", cell.latency_median * 1e6)} (${shown("latency", cell.latency_low * 1e6)} to ${shown("latency", cell.latency_high * 1e6)})`],
          ["peak memory", cell.peak_memory_bytes == null ? NOTHING : shown("memory", cell.peak_memory_bytes / 1024)],
          ["parameters", shown("count", cell.parameters)]);
      }
      known.push(...Object.entries(column.facts).filter(([name]) => ["hardware", "driver", "Python", "torch", "transformers"].includes(name)));
      parts.push(facts(known.filter(([, value]) => value)));
      parts.push(el("p", {}, el("a", { href: address({ view: "history", family: family.family, device: column.id }) }, "History of this cell")));
    }
    $(".body", dialog).replaceChildren(...parts);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  }

  // Showing what the address names.
  let current;
  async function show() {
    if (location.hash === "#main") return;
    const { view: asked, family, device } = parameters();
    const view = asked in views ? asked : family ? "matrix" : "overview";
    const detail = view === "matrix" && family in byName ? columns.find((column) => column.id === device) : null;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash === `#view=${view}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (dialog.open && !detail) dialog.close();
    if (view !== current || (view !== "matrix")) {
      current = view;
      await views[view]();
      if (document.activeElement === document.body) window.scrollTo(0, 0);
    } else if (!detail && asked) views[view]();
    if (detail) openCell(byName[family], detail);
  }
  function closed() {
    const { family, device } = parameters();
    if (current !== "matrix" || !family) return;
    remember({ family: "", device: "", view: "matrix" });
    const label = `${family} on ${columns.find((column) => column.id === device)?.label}:`;
    [...document.querySelectorAll("a.cell")].find((link) => link.getAttribute("aria-label").startsWith(label))?.focus();
  }

  async function start() {
    data = JSON.parse(await unpack("matrix"));
    ({ columns, families } = data);
    outcomes = Object.fromEntries(data.outcomes.map((outcome) => [outcome.key, outcome]));
    byName = Object.fromEntries(families.map((family) => [family.family, family]));
    for (const family of families) {
      const words = [family.family, family.architecture, family.model_class];
      for (const cell of Object.values(family.cells)) {
        words.push(outcomes[cell.outcome].word, cell.first_reason?.slice(0, 200), ...cell.open_checks.map((check) => check.name));
      }
      family.searched = words.join(" ").toLowerCase();
    }
    $(".close", dialog).addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", closed);
    addEventListener("hashchange", show);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (current !== "matrix") show(); });
    await show();
    document.documentElement.dataset.ready = "";
  }
  start().catch((error) => {
    main.replaceChildren(el("p", { class: "warning", role: "alert" }, `This page cannot be shown: ${error}`));
    throw error;
  });
})();
