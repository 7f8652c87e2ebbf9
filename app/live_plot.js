// One live chart: quipPlot(element, props, watch, trigger) as gr.HTML has them; conventions are in live_plot.py.
window.quipPlot = (() => {
  const NARROW = 560;                                     // pixels
  const FEW = 6, PAUSE = 4000;                            // points that may lie upon a small chart, ms without a new one
  const BASE = {
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', showlegend: false, hovermode: 'closest',
    margin: {l: 48, r: 8, t: 8, b: 36}, dragmode: 'zoom', bargap: .15,
    font: {family: '--sans', size: 12, color: '--ink-2'},
    hoverlabel: {bgcolor: '--surface', bordercolor: '--line-strong', align: 'left', font: {size: 12, color: '--ink'}},
  };
  const AXIS = {
    gridcolor: '--grid', zeroline: false, linecolor: '--line-strong', tickcolor: '--line-strong', ticks: 'outside',
    ticklen: 4, tickfont: {size: 11, color: '--ink-3'}, title: {font: {size: 12, color: '--ink-3'}, standoff: 8},
  };

  // Plotly is large: the page comes first. The first chart asks for it, or five seconds of peace.
  let library;
  const plotly = () => library ??= new Promise(done => {
    const ask = () => {
      const script = document.createElement('script');
      [script.src, script.onload, script.onerror] = [quipPlotlyAt, done, () => setTimeout(ask, 1000)];
      document.head.append(script);
    };
    ask();
  });
  setTimeout(() => (window.requestIdleCallback || setTimeout)(plotly), 5000);

  const isObject = v => v !== null && typeof v === 'object' && !Array.isArray(v);
  const merge = (a, b) => {
    const out = {...a};
    for (const k in b) out[k] = isObject(a[k]) && isObject(b[k]) ? merge(a[k], b[k]) : b[k];
    return out;
  };

  function unpack({packed, low, step, log, columns}) {
    const bytes = Uint8Array.from(atob(packed), c => c.charCodeAt(0)), view = new DataView(bytes.buffer);
    const number = code => code === 65535 ? null : log ? 10 ** (low + step * code) : low + step * code;
    const values = Array.from({length: bytes.length / 2}, (_, i) => number(view.getUint16(2 * i, true)));
    if (!columns) return values;
    return Array.from({length: values.length / columns}, (_, r) => values.slice(r * columns, (r + 1) * columns));
  }
  const unpackBytes = ({bytes, step, columns}) => {
    const values = Array.from(atob(bytes), c => step * c.charCodeAt(0));
    return Array.from({length: values.length / columns}, (_, r) => values.slice(r * columns, (r + 1) * columns));
  };
  const laneLabels = ({lanes, blocks, gap}) =>
    lanes.flatMap(name => Array.from({length: blocks + gap}, (_, b) => `${b} · ${name}`));

  function laneLayout({lanes, blocks, gap}) {             // the house layout of everything measured per layer
    const width = blocks - 1, margin = gap / 2 + .5, starts = lanes.map((_, k) => k * (blocks + gap));
    const ticks = width ? [0, width] : [0];
    return {
      xaxis: {
        range: [-margin, starts.at(-1) + width + margin], tickvals: ticks, ticktext: ticks.map(String), showgrid: false,
        title: {text: 'block, one lane per projection'},
      },
      annotations: lanes.map((text, k) => ({
        text, x: starts[k] + width / 2, y: 1, xref: 'x', yref: 'paper', yanchor: 'bottom', showarrow: false,
        font: {size: 12, color: '--ink'},
      })),
      shapes: starts.slice(1).map(s => ({
        type: 'line', x0: s - margin, x1: s - margin, y0: 0, y1: 1, yref: 'paper', line: {color: '--line', width: 1},
      })),
    };
  }

  function resolve(v, token) {                            // tokens to colours, codes to numbers
    if (typeof v === 'string') return v.startsWith('--') ? token(v) : v;
    if (Array.isArray(v)) return typeof v.at(-1) === 'number' ? v : v.map(w => resolve(w, token));
    if (!isObject(v)) return v;
    if (v.packed !== undefined) return unpack(v);
    if (v.bytes !== undefined) return unpackBytes(v);
    if (v.lanes) return laneLabels(v);
    return Object.fromEntries(Object.entries(v).map(([k, w]) => [k, resolve(w, token)]));
  }
  function derive(trace, all) {                           // what follows from other traces is not sent
    if (trace.stems) {
      const [a, b] = trace.stems.map(i => all.at(i).y);
      trace.x = a.flatMap((_, i) => [i, i, null]);
      trace.y = a.flatMap((v, i) => [v, b[i], null]);
    }
    if (trace.powers) trace.text = trace.z.map(row => row.map(v => v === null ? '' : (10 ** v).toExponential(2)));
    return trace;
  }
  const numbers = data => data.reduce((n, t) => n + [t.y || t.z || []].flat(2).filter(v => v !== null).length, 0);

  const line = [];                                        // charts that are to be drawn: one a frame, the page lives on
  function soon(draw) {
    if (!line.includes(draw) && line.push(draw) === 1) requestAnimationFrame(next);
  }
  function next() {
    setTimeout(() => { if (line.length > 1) requestAnimationFrame(next); line.shift()(); });
  }

  return (element, props, watch, trigger) => {
    const box = element.querySelector('.plot'), reset = element.querySelector('[data-tool=reset]');
    const marks = element.querySelector('.marks'), foot = element.querySelector('.plot-foot');
    const height = box.style.height, token = name => getComputedStyle(element).getPropertyValue(name).trim();
    let figure = {}, layout = {}, rest;
    let settled = null, count = 0, fresh = [];            // what Plotly has drawn, numbers in it, places that came since
    let near = !!window.quipDrawAll, stale = true;        // within reach of the window; not drawn as it is now

    // Points that are added lie upon the chart until they are many, the reader comes near, or no more arrive.
    function update() {
      clearTimeout(rest);
      const given = props.value;
      if (!given?.data && typeof given !== 'string' || !given) return clear();
      stale = !box.offsetWidth || !near;
      if (stale) return;                                  // hidden tab, or far below: the observers draw it later
      if (!window.Plotly) return void plotly().then(update);
      figure = typeof given === 'string' ? JSON.parse(given) : given;
      if (figure.summary) box.setAttribute('aria-label', figure.summary);
      foot.textContent = figure.foot || '';
      const more = settled && !box.matches(':hover') && quipMarks.added(settled, figure, unpack);
      if (!more || more.length > FEW + count / 10) return soon(draw);
      fresh = more;
      lay();
      if (fresh.length) rest = setTimeout(draw, PAUSE);
    }
    function clear() {
      if (box.data) Plotly.purge(box);
      marks.replaceChildren();
      [figure, settled] = [{}, null];
    }
    function lay() {
      if (settled) quipMarks.lay(marks, box, figure, fresh, unpack);
    }
    function draw() {
      stale = !box.offsetWidth;
      if (stale || !figure.data) return;
      const small = figure.narrow && box.offsetWidth < NARROW, {height: tall, ...narrow} = figure.narrow || {};
      box.style.height = small && tall ? `${tall}px` : height;
      const {lanes, ...asked} = small ? merge(figure.layout, narrow) : figure.layout || {};
      const wanted = merge(BASE, lanes ? merge(laneLayout(lanes), asked) : asked);
      for (const k of Object.keys(wanted)) if (/^[xy]axis\d*$/.test(k)) wanted[k] = merge(AXIS, wanted[k]);
      layout = structuredClone(wanted);
      wanted.uirevision = figure.run || 'static';         // same run: keep the reader's zoom
      const first = !box.data, data = resolve(figure.data, token);
      [settled, count, fresh] = [figure, numbers(data), []];
      Plotly.react(box, data.map(t => derive(t, data)), resolve(wanted, token),
        {displayModeBar: false, responsive: false, doubleClick: 'reset'});
      lay();
      if (first) listen();
    }
    function listen() {
      box.on('plotly_afterplot', lay);
      box.on('plotly_relayout', e => {
        if (Object.keys(e).some(k => /axis\d*\.(range|autorange)/.test(k))) reset.hidden = !zoomed();
      });
      box.on('plotly_click', ({points: [p]}) => trigger('click', {action: p.customdata ?? `${p.y} · ${p.x}`}));
    }
    // Ranges that differ from what the figure asks for were made by the reader.
    const zoomed = () => ['xaxis', 'yaxis'].some(k => {
      const asked = layout[k].range, now = box.layout[k].range;
      return asked && now.some((v, i) => Math.abs(v - asked[i]) > 1e-6);
    });
    const afresh = () => { settled = null; update(); };
    const bring = () => { if (fresh.length) draw(); };    // the reader may ask for any point

    element.addEventListener('click', e => {
      const tool = e.target.dataset && e.target.dataset.tool;
      if (tool === 'png' && box.data) { bring(); Plotly.downloadImage(box, {format: 'png', scale: 2, filename: 'quip-studio'}); }
      if (tool === 'reset' && box.data) { Plotly.purge(box); reset.hidden = true; afresh(); }
    });
    box.addEventListener('pointerenter', bring);
    new IntersectionObserver(seen => {
      near = seen.at(-1).isIntersecting || !!window.quipDrawAll;
      if (near && stale) update();
    }, {rootMargin: '300px'}).observe(box);
    let width = 0, away = true;                           // when last seen; in a hidden tab
    new ResizeObserver(() => {
      const now = box.offsetWidth, crossed = width && (width < NARROW) !== (now < NARROW);
      if (!now) return void (away = true);
      if (crossed) settled = null;
      if (crossed || away) update();                      // data may have changed meanwhile
      if (box.data && box._fullLayout.width !== now) Plotly.Plots.resize(box);
      [width, away] = [now, false];
    }).observe(box);
    new MutationObserver(afresh).observe(document.body, {attributes: true, attributeFilter: ['class']});
    watch('value', update);
    update();
  };
})();
