
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const views = {};
  let pinned = page.noTrial;

  /* Rows from columns: words are told once, and numbered. */
  function rowsOf(columns) {
    const names = Object.keys(columns);
    const values = names.map((name) => {
      const column = columns[name];
      return Array.isArray(column) ? column : column.at.map((place) => column.words[place]);
    });
    const count = values.length ? values[0].length : 0;
    return Array.from({ length: count }, (_, i) => Object.fromEntries(names.map((name, j) => [name, values[j][i]])));
  }

  /* Colours. */
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  let theme = dark.matches ? "dark" : "light";

  function setInks(name) {
    for (const view of Object.values(views)) {
      for (const [ink, colour] of Object.entries(page.inks[name])) view.signal(ink, colour);
      view.run();
    }
  }

  function setTheme(name) {
    theme = name;
    root.dataset.theme = name;
    button.textContent = name === "dark" ? "Light" : "Dark";
    setInks(name);
  }

  button.hidden = false;
  button.addEventListener("click", () => setTheme(theme === "dark" ? "light" : "dark"));
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
  addEventListener("beforeprint", () => { root.dataset.theme = "light"; setInks("light"); });
  addEventListener("afterprint", () => setTheme(theme));

  /* Charts. */
  async function draw(key) {
    const spec = page.charts[key];
    spec.datasets = Object.fromEntries(Object.entries(page.data[key]).map(([name, each]) => [name, rowsOf(each)]));
    for (const parameter of spec.params) if (parameter.name in page.inks[theme]) parameter.value = page.inks[theme][parameter.name];
    const node = document.getElementById("chart-" + key);
    if (node.clientWidth < 520) spec.config.legend.columns = node.clientWidth < 420 ? 1 : 2;
    const { view } = await vegaEmbed(node, spec, {
      mode: "vega-lite", ast: true, actions: false, renderer: "canvas", defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
      logLevel: 1, /* errors: that no build is pinned, and its layer empty, is no reason to warn */
    });
    view.addEventListener("click", (_, item) => {
      const trial = item && item.mark.marktype !== "line" && item.datum ? item.datum.trial : undefined;
      if (trial !== undefined && trial !== page.noTrial) pin(trial === pinned ? page.noTrial : trial);
    });
    views[key] = view;
    if (pinned !== page.noTrial) view.signal("pinned", pinned).run();
  }

  /* The pinned build. */
  const aside = document.getElementById("pin");
  const trials = rowsOf(page.trials);
  const table = document.getElementById("builds");
  const lines = table ? [...table.tBodies[0].rows] : [];
  const digits = (value, count) => Number(value.toPrecision(count)).toLocaleString("en");

  function pin(trial) {
    pinned = trial;
    for (const view of Object.values(views)) view.signal("pinned", trial).run();
    trials.forEach((row, i) => {
      const here = row.trial === trial;
      lines[i].classList.toggle("pinned", here);
      lines[i].querySelector(".pin").setAttribute("aria-pressed", String(here));
    });
    const row = trials.find((each) => each.trial === trial);
    aside.hidden = !row;
    if (!row) return;
    const why = row.reason ? ` (${row.reason})` : "";
    document.getElementById("pin-words").textContent =
      `Trial ${row.trial}: ${row.draft}, ${row.backend} ${row.precision}, ${(row.parameters / 1e6).toFixed(2)} M parameters, ${row.state}${why}`;
    const points = rowsOf(page.data.pareto.points).filter((each) => each.trial === trial).sort((a, b) => a.k - b.k);
    aside.querySelector(".scroll").hidden = !points.length;
    aside.querySelector("tbody").replaceChildren(...points.map((each) => {
      const line = document.createElement("tr");
      const words = each.kind.includes("measured") ? " measured" : "";
      for (const text of [each.k + words, each.tokens.toFixed(2), digits(each.round_ms, 4), digits(each.tokens_s, 4), each.speedup.toFixed(2) + "×"]) {
        const cell = line.insertCell();
        cell.className = "n";
        cell.textContent = text;
      }
      return line;
    }));
  }

  document.getElementById("unpin").addEventListener("click", () => pin(page.noTrial));
  addEventListener("keydown", (event) => { if (event.key === "Escape" && pinned !== page.noTrial) pin(page.noTrial); });

  /* The table of all builds. */
  if (table) {
    const body = table.tBodies[0];
    const filters = [...document.querySelectorAll("[data-filter]")];
    const shown = document.getElementById("shown");
    document.querySelector(".filters").hidden = false;
    lines.forEach((line, i) => line.querySelector(".pin").addEventListener("click", () => {
      pin(pinned === trials[i].trial ? page.noTrial : trials[i].trial);
    }));

    const filter = () => {
      const wanted = filters.filter((each) => each.value).map((each) => [each.dataset.filter, each.value]);
      let count = 0;
      trials.forEach((row, i) => {
        const fits = wanted.every(([name, value]) => row[name] === value);
        lines[i].hidden = !fits;
        count += fits;
      });
      shown.textContent = `${count} of ${trials.length} builds`;
    };
    filters.forEach((each) => each.addEventListener("change", filter));

    /* What is not known comes last, whichever way. */
    const compare = (a, b, sign) => {
      if (a === null || a === "") return b === null || b === "" ? 0 : 1;
      if (b === null || b === "") return -1;
      return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
    };
    const heads = [...table.querySelectorAll("th[data-sort]")];
    heads.forEach((head) => head.querySelector("button").addEventListener("click", () => {
      const name = head.dataset.sort;
      const descending = head.ariaSort === "ascending" || (!head.ariaSort && typeof trials.find((row) => row[name] !== null)?.[name] === "number" && name !== "trial");
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const order = trials.map((_, i) => i).sort((i, j) => compare(trials[i][name], trials[j][name], descending ? -1 : 1));
      body.append(...order.map((i) => lines[i]));
    }));
  }

  /* What if: the arithmetic of WhatIf.speedup. */
  const sliders = document.getElementById("sliders");
  function speedup(draft, place, scale, gain) {
    const k = draft.lookaheads[place];
    const tokens = Math.min(Math.max(draft.tokens[place] * (1 + gain), 1), k + 1);
    const round = draft.burst_s[place] + scale * page.whatIf.verify_s[k] + page.whatIf.overhead_s;
    return tokens / round * (scale * page.whatIf.verify_s[0] + page.whatIf.plain_overhead_s);
  }

  function suppose() {
    const [draft, step, k, gain] = ["draft", "step", "k", "gain"].map((name) => document.getElementById("what-" + name));
    const chosen = page.whatIf.drafts[draft.value];
    k.max = chosen.lookaheads.length - 1;
    const place = Number(k.value), scale = 2 ** Number(step.value), more = Number(gain.value) / 100;
    const told = (name, text) => { document.getElementById("told-" + name).textContent = text; };
    const plain = scale * page.whatIf.verify_s[0] + page.whatIf.plain_overhead_s;
    const tokens = Math.min(Math.max(chosen.tokens[place] * (1 + more), 1), chosen.lookaheads[place] + 1);
    told("step", `${digits(1e3 * plain, 3)} ms (${digits(scale, 3)}×)`);
    told("k", chosen.lookaheads[place]);
    told("gain", `${tokens.toFixed(2)} (${more < 0 ? "−" : "+"}${Math.abs(gain.value)} %)`);
    const worth = speedup(chosen, place, scale, more);
    const best = chosen.lookaheads.map((_, i) => speedup(chosen, i, scale, more));
    const fastest = best.indexOf(Math.max(...best));
    told("speedup", `${worth.toFixed(3)}× with k = ${chosen.lookaheads[place]}` + (worth <= 1 ? ": the target alone is as fast" : "") +
      `; the best k would be ${best[fastest] > 1 ? chosen.lookaheads[fastest] : 0}` + (best[fastest] > 1 ? `, ${best[fastest].toFixed(3)}×` : ""));
    for (const slider of [step, k, gain]) slider.setAttribute("aria-valuetext", document.getElementById(slider.id.replace("what", "told")).textContent);
    const rows = chosen.lookaheads.flatMap((each, i) => [
      { case: "as predicted", k: each, speedup: speedup(chosen, i, 1, 0), asked: false },
      { case: "what if", k: each, speedup: best[i], asked: i === place },
    ]);
    if (views["what-if"]) views["what-if"].data("what_if", rows).run();
  }

  function asItIs() {
    const draft = page.whatIf.drafts[document.getElementById("what-draft").value];
    const k = document.getElementById("what-k");
    k.max = draft.lookaheads.length - 1;
    k.value = draft.lookaheads.indexOf(draft.best);
    document.getElementById("what-step").value = 0;
    document.getElementById("what-gain").value = 0;
    suppose();
  }

  if (sliders) {
    sliders.hidden = false;
    asItIs();
    for (const name of ["step", "k", "gain"]) document.getElementById("what-" + name).addEventListener("input", suppose);
    document.getElementById("what-draft").addEventListener("change", asItIs);
    document.getElementById("what-reset").addEventListener("click", asItIs);
  }

  const pause = () => new Promise((done) => setTimeout(done));
  async function drawAll() {
    for (const key of Object.keys(page.charts)) {
      await draw(key);
      root.dataset.interactive ??= String(Math.round(performance.now()));
      await pause();
    }
    root.dataset.drawn = String(Math.round(performance.now()));
  }
  setTheme(theme);
  drawAll();
  window.report = { views };
})();
