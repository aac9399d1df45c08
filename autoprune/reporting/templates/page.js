"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 600px)");
  const touch = matchMedia("(pointer: coarse)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = (own) => ({
    gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"),
    automargin: true, fixedrange: touch.matches, ...own,
  });

  // Colours come from the page, so that a figure follows its light or dark style.
  const themed = (layout) => ({
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", autosize: true,
    font: { color: colour("--text"), family: "system-ui, sans-serif", size: narrow.matches ? 11 : 13 },
    hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: { color: colour("--text") } },
    margin: { l: 8, r: 12, t: narrow.matches ? 8 : 32, b: 8 },
    modebar: { bgcolor: "transparent", color: colour("--quiet"), activecolor: colour("--text") },
    dragmode: touch.matches ? false : "zoom",
    ...layout,
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", ...layout.legend },
    xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
    ...(layout.yaxis2 && { yaxis2: axis(layout.yaxis2) }),
  });
  // Traces that say "text" as their colour are drawn like text.
  const painted = (data) => JSON.parse(JSON.stringify(data).replaceAll('"color":"text"', `"color":"${colour("--text")}"`)
    .replaceAll('"color":"quiet"', `"color":"${colour("--quiet")}"`));

  const drawAll = [...document.querySelectorAll(".drawing")].map((figure) => {
    const views = JSON.parse(figure.querySelector("script").textContent);
    const select = figure.querySelector("select");
    const draw = () => {
      const view = views[select ? Number(select.value) : 0];
      Plotly.react(figure.querySelector(".plot"), painted(view.data), themed(view.layout), {
        responsive: true, displaylogo: false, displayModeBar: touch.matches || narrow.matches ? false : "hover",
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      });
    };
    if (select) select.addEventListener("change", draw);
    draw();
    return draw;
  });
  for (const query of [dark, narrow]) query.addEventListener("change", () => drawAll.forEach((draw) => draw()));
})();
