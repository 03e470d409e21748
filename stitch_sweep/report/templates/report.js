"use strict";

/* Draws the figures and handles clicks. Texts are set with textContent. Plotly reads markup in its texts,
   so these were escaped when the report was written. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const config = { displayModeBar: false, responsive: false, doubleClick: false, showTips: false };
  const drawn = new Map(); // element -> function that sets its width

  const element = (tag, text, name) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (name) node.className = name;
    return node;
  };
  // Without the sign of a value that is rounded to 0.
  const round = (value, digits) => value.toFixed(digits).replace(/^-(?=[0.]*$)/, "");
  const formatFixed = (value, digits = 3) =>
    value === null || value === undefined ? "–" : round(value, digits);
  const formatValue = (value) => (Math.abs(value) < 10 ? round(value, 2) : value.toPrecision(3));

  // ---- widths: figures follow the width of their column, on paper too

  const PAPER = 660; // CSS pixels that fit on A4 and Letter between the margins
  const HEIGHT = data.chart.height, HEIGHT_ON_PAPER = 180, HEAT_ON_PAPER = 290;

  function fitHeatmap(plot, width) {
    const layout = plot.layout, margin = layout.margin;
    const columns = layout.meta.columns, rows = layout.meta.rows;
    const room = Math.min(width, 560) - margin.l - margin.r;
    const cell = Math.max(Math.min(room / columns, 64), 27);
    const size = Math.max(8, Math.min(cell * 0.29, 13));
    return Plotly.update(
      plot,
      { "textfont.size": size },
      {
        width: Math.round(cell * columns + margin.l + margin.r),
        height: Math.round(Math.min(cell, 48) * rows + margin.t + margin.b),
      },
    );
  }
  function fitChart(plot, width) {
    // A figure below its least width scrolls within its frame.
    const least = (plot.layout.meta && plot.layout.meta.least) || 0;
    return Plotly.relayout(plot, { width: Math.round(Math.max(Math.min(width, 832), least)) });
  }
  function fit(plot, width) {
    const room = width || plot.closest(".plot, .pictures > div").clientWidth;
    if (!room || plot.dataset.width === String(room)) return;
    plot.dataset.width = String(room);
    drawn.get(plot)(plot, room);
  }
  let waiting = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => drawn.forEach((_, plot) => fit(plot)));
  });
  const opened = [];
  addEventListener("beforeprint", () => {
    // All tables except the longest, which are available as CSV.
    for (const details of document.querySelectorAll("details:not([open], .long)")) {
      details.open = true;
      opened.push(details);
    }
    for (const plot of drawn.keys()) {
      const heat = plot.classList.contains("heat"), chart = plot.classList.contains("chart");
      fit(plot, heat ? HEAT_ON_PAPER : chart ? PAPER / 2.1 : PAPER);
      if (chart) Plotly.relayout(plot, { height: HEIGHT_ON_PAPER });
    }
  });
  addEventListener("afterprint", () => {
    opened.splice(0).forEach((details) => { details.open = false; });
    for (const plot of drawn.keys()) {
      fit(plot);
      if (plot.classList.contains("chart")) Plotly.relayout(plot, { height: HEIGHT });
    }
  });

  async function draw(plot, figure, setWidth) {
    await Plotly.newPlot(plot, figure.data, figure.layout, config);
    drawn.set(plot, setWidth);
    fit(plot);
  }

  // ---- matrices

  function paint(group, key) {
    const value = group.values.find((entry) => entry.key === key);
    const section = document.getElementById(group.id);
    section.querySelector(".key .low").textContent = formatValue(value.low);
    section.querySelector(".key .high").textContent = formatValue(value.high);
    const colors = data.scales[value.scale], gradient = colors.map(([, color]) => color).join(", ");
    section.querySelector(".key .bar").style.background = `linear-gradient(to right, ${gradient})`;
    section.querySelector(".key .what").textContent = value.label;
    group.variants.forEach((variant) => {
      const z = variant.values[key];
      const text = z.map((row, i) =>
        row.map((v, j) => (v === null ? "" : formatValue(v) + (variant.marks[i][j] === "*" ? "*" : ""))));
      const template = `sender layer %{customdata[0]}<br>receiver layer %{customdata[1]}<br>` +
        `${value.hover} %{z:.4f}<extra></extra>`;
      const plot = document.getElementById(variant.figure);
      Plotly.restyle(plot, {
        z: [z], text: [text], zmin: value.low, zmax: value.high, colorscale: [colors], hovertemplate: template,
      }, [0]);
    });
  }

  function outline(group, i, j) {
    for (const variant of group.variants) {
      const plot = document.getElementById(variant.figure);
      Plotly.relayout(plot, {
        "shapes[0].x0": j - 0.5, "shapes[0].x1": j + 0.5,
        "shapes[0].y0": i - 0.5, "shapes[0].y1": i + 0.5,
        "shapes[0].visible": true,
      });
    }
  }

  function linked(trial) {
    if (!trial.run) return element("code", trial.id);
    const link = element("a", "MLflow run");
    link.href = trial.run;
    link.rel = "noreferrer";
    link.title = trial.id;
    return link;
  }

  const COLUMNS = [
    ["test accuracy", "n", (t) => formatFixed(t.test)],
    ["calibrated", "n", (t) => formatFixed(t.calibrated)],
    ["validation", "n", (t) => formatFixed(t.val)],
    ["penalty", "n", (t) => formatFixed(t.penalty)],
    ["converged", "", (t) => (t.converged === null ? "unknown" : t.converged ? "yes" : "no")],
    ["seconds", "n", (t) => formatFixed(t.seconds, 1)],
  ];

  function cellTable(group, i, j) {
    const table = element("table", undefined, "wide");
    const head = table.createTHead().insertRow();
    const settings = group.variants.some((v) => v.trials[i][j].some((id) => data.trials[id].settings));
    const names = ["stitch", ...COLUMNS.map((c) => c[0]), ...(settings ? ["searched"] : []), "run"];
    names.forEach((name, k) => {
      const th = element("th", name, k > 0 && k <= COLUMNS.length ? COLUMNS[k - 1][1] : "");
      th.scope = "col";
      head.append(th);
    });
    const body = table.createTBody();
    group.variants.forEach((variant) => {
      const best = variant.trials[i][j].filter((id) => data.trials[id].best);
      if (!best.length) {
        const row = body.insertRow();
        row.append(element("td", variant.label));
        const state = element("td", "not run", "soft");
        state.colSpan = names.length - 1;
        row.append(state);
      }
      for (const id of best) {
        const trial = data.trials[id];
        const row = body.insertRow();
        const first = row.insertCell();
        const swatch = element("span", undefined, "swatch");
        swatch.style.borderTopColor = variant.color;
        swatch.style.borderTopStyle = variant.dash === "solid" ? "solid" : "dashed";
        first.append(swatch, variant.label + (group.repeats > 1 ? `, repeat ${trial.repeat}` : ""));
        first.className = "nobreak";
        if (trial.error) {
          const reason = element("td", `failed: ${trial.error}`, "fail");
          reason.colSpan = COLUMNS.length + (settings ? 1 : 0);
          row.append(reason);
        } else {
          for (const [, name, text] of COLUMNS) row.append(element("td", text(trial), name));
          if (settings) row.append(element("td", trial.settings, "nobreak"));
        }
        const run = row.insertCell();
        run.className = "nobreak";
        run.append(linked(trial));
      }
    });
    return table;
  }

  function curves(group, i, j, x, y) {
    const traces = [];
    group.variants.forEach((variant) => {
      for (const id of variant.trials[i][j]) {
        const trial = data.trials[id], path = data.trajectories[id];
        if (!path || !path[y].length) continue;
        traces.push({
          type: "scatter", mode: path[y].length === 1 ? "markers" : "lines",
          x: data.steps[path[x]], y: path[y],
          name: variant.hover, showlegend: false,
          line: {
            color: variant.color,
            width: trial.best ? 2 : 1,
            dash: trial.stopped ? "dot" : variant.dash,
          },
          opacity: trial.best ? 1 : 0.4,
          hovertemplate: "epoch %{x:.1f}: %{y:.4g}" + (trial.stopped ? ", stopped early" : ""),
        });
      }
    });
    return traces;
  }

  function choose(group, i, j, scroll) {
    const section = document.getElementById(group.id);
    const [rows, columns] = section.querySelectorAll(".cell select");
    rows.value = i;
    columns.value = j;
    outline(group, i, j);
    section.querySelector(".chosen").textContent =
      `sender layer ${rows.selectedOptions[0].text}, receiver layer ${columns.selectedOptions[0].text}`;
    section.querySelector(".cell .scroll").replaceChildren(cellTable(group, i, j));
    const [accuracy, loss] = section.querySelectorAll(".cell .chart");
    const none = section.querySelector(".cell .none");
    const figures = [
      [accuracy, curves(group, i, j, "xv", "accuracy"), {
        title: { text: "validation accuracy" },
        // Around a single point, the axis would reach from 1 below it to 1 above it.
        autorangeoptions: { clipmin: -0.05, clipmax: 1.05 },
      }],
      [loss, curves(group, i, j, "xt", "loss"), {
        title: { text: "training loss" },
        type: group.positive ? "log" : "linear",
      }],
    ];
    let hasTraces = false;
    for (const [plot, traces, axis] of figures) {
      plot.hidden = !traces.length;
      hasTraces = hasTraces || traces.length > 0;
      if (!traces.length) continue;
      const layout = structuredClone(data.chart);
      layout.xaxis.title = { text: "epoch" };
      layout.xaxis.rangemode = "tozero";
      Object.assign(layout.yaxis, axis);
      Plotly.react(plot, traces, layout, config);
      drawn.set(plot, fitChart);
      delete plot.dataset.width;
      fit(plot);
    }
    none.hidden = hasTraces;
    if (scroll) {
      section.querySelector(".cell").scrollIntoView({ behavior: "smooth", block: "nearest" });
    }
  }

  async function startGroup(group) {
    const section = document.getElementById(group.id);
    for (const variant of group.variants) {
      const plot = document.getElementById(variant.figure);
      await draw(plot, data.figures[variant.figure], fitHeatmap);
      plot.on("plotly_click", (event) => {
        const point = event.points[0];
        choose(group, Math.round(point.y), Math.round(point.x), true);
      });
    }
    const value = section.querySelector("select.value");
    value.addEventListener("change", () => paint(group, value.value));
    const selects = section.querySelectorAll(".cell select");
    selects.forEach((select) => select.addEventListener("change", () =>
      choose(group, Number(selects[0].value), Number(selects[1].value), false)));
    for (const plot of section.querySelectorAll(".cell .chart")) {
      await Plotly.newPlot(plot, [], structuredClone(data.chart), config);
    }
    choose(group, group.start[0], group.start[1], false);
  }

  // The address fragment #trial=<id> opens the cell of that trial.
  function openLinkedTrial() {
    const linkedId = decodeURIComponent(location.hash.replace(/^#trial=/, ""));
    for (const group of data.groups) {
      for (const variant of group.variants) {
        variant.trials.forEach((row, i) => row.forEach((ids, j) => {
          if (location.hash.startsWith("#trial=") && ids.includes(linkedId)) choose(group, i, j, true);
        }));
      }
    }
  }

  async function start() {
    for (const group of data.groups) await startGroup(group);
    for (const plot of document.querySelectorAll("[data-figure]")) {
      await draw(plot, data.figures[plot.dataset.figure], fitChart);
    }
    addEventListener("hashchange", openLinkedTrial);
    openLinkedTrial();
    document.documentElement.dataset.drawn = "true";
  }
  start();
})();
