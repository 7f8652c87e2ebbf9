// What Plotly need not be asked for each second: points that came since it last drew, and the mark of what is worked on.
// They lie above the chart in an SVG of their own, in Plotly's coordinates, until it draws them itself (live_plot.js).
window.quipMarks = (() => {
  const DASHES = {dash: '6 4', dot: '1.5 3'};
  const SHAPES = {
    circle: r => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
    diamond: r => `M${1.3 * r} 0L0 ${1.3 * r}L${-1.3 * r} 0L0 ${-1.3 * r}Z`,
  };
  const paint = colour => colour?.startsWith('--') ? `var(${colour})` : colour;
  const close = (a, b) => Math.abs(a - b) <= 1e-3 * (Math.abs(a) + Math.abs(b)) + 1e-9;

  // The places {trace, at} that have a number now and had none; null where anything else has changed, too.
  function added(before, after, unpack) {
    if (JSON.stringify(before.layout) !== JSON.stringify(after.layout)) return null;
    if (before.run !== after.run || before.data.length !== after.data.length) return null;
    const found = [];
    for (const [trace, now] of after.data.entries()) {
      const old = before.data[trace];
      for (const key of now === old ? [] : Object.keys({...old, ...now})) {
        if (JSON.stringify(old[key]) === JSON.stringify(now[key])) continue;
        if (!old[key]?.packed || !now[key]?.packed) return null;
        const a = unpack(old[key]).flat(), b = unpack(now[key]).flat();
        for (const [at, value] of b.entries()) {
          if (a[at] === null && value !== null) found.push({trace, at});
          else if (a[at] !== value && !(a[at] !== null && value !== null && close(a[at], value))) return null;
        }
      }
    }
    return found;
  }

  // Draw these places and the figure's mark into `svg`, which is laid upon the axes of `box`.
  function lay(svg, box, figure, places, unpack) {
    const {xaxis: x, yaxis: y} = box._fullLayout, series = new Map();
    Object.assign(svg.style, {left: `${x._offset}px`, top: `${y._offset}px`});
    svg.setAttribute('width', x._length);
    svg.setAttribute('height', y._length);
    const X = v => x.l2p(v).toFixed(1), Y = v => y.l2p(y.type === 'log' ? Math.log10(v) : v).toFixed(1);
    const of = k => series.has(k) ? series.get(k) : series.set(k, unpack(figure.data[k].y ?? figure.data[k].z)).get(k);
    const shown = [];
    const path = (d, style) => shown.push(`<path d="${d}" style="${style}"/>`);
    const mark = (symbol, size, px, py, style, css = 'point') =>
      shown.push(`<path class="${css}" d="${SHAPES[symbol](size / 2)}" transform="translate(${px} ${py})" style="${style}"/>`);
    const tile = (column, row, style, css = 'point') => {
      const [px, py] = [Math.abs(x.l2p(1) - x.l2p(0)), Math.abs(y.l2p(1) - y.l2p(0))];
      const [w, h] = [Math.max(px - 3, 1), Math.max(py - (py > 12 ? 3 : 1), 1)];
      shown.push(`<rect class="${css}" x="${(X(column) - w / 2).toFixed(1)}" y="${(Y(row) - h / 2).toFixed(1)}" ` +
        `width="${w.toFixed(1)}" height="${h.toFixed(1)}" style="${style}"/>`);
    };
    for (const {trace: k, at} of places) {
      const trace = figure.data[k];
      if (trace.type === 'heatmap') {
        const width = of(k)[0].length, row = Math.floor(at / width);
        tile(at % width, row, `fill:${shade(trace, of(k)[row][at % width])}`);
        continue;
      }
      const value = of(k)[at], stems = figure.data.find(t => t.stems && figure.data.indexOf(trace) === figure.data.length + t.stems[0]);
      if (stems) {
        const other = of(figure.data.length + stems.stems[1])[at];
        if (other !== null) path(`M${X(at)} ${Y(value)}V${Y(other)}`, `${stroke(stems.line)};opacity:${stems.opacity}`);
      }
      if (trace.mode.includes('lines'))
        for (const next of [at - 1, at + 1])
          if (of(k)[next] != null) path(`M${X(at)} ${Y(value)}L${X(next)} ${Y(of(k)[next])}`, stroke(trace.line));
      if (trace.mode.includes('markers'))
        mark(trace.marker.symbol || 'circle', trace.marker.size, X(at), Y(value), `fill:${paint(trace.marker.color)}`);
    }
    const now = figure.now;
    if (now?.ring) mark('circle', 13, X(now.ring[0]), Y(now.ring[1]), 'fill:none;stroke:var(--accent);stroke-width:1.5', 'now');
    if (now?.tile) tile(...now.tile, `fill:none;stroke:${paint(now.color)};stroke-width:2`, 'now');
    svg.innerHTML = shown.join('');
  }
  const stroke = ({color, width, dash}) =>
    `fill:none;stroke:${paint(color)};stroke-width:${width};stroke-dasharray:${DASHES[dash] || 'none'}`;
  function shade({colorscale, zmin, zmax}, z) {
    const share = Math.min(1, Math.max(0, (z - zmin) / (zmax - zmin)));
    const k = Math.max(1, colorscale.findIndex(([at]) => share <= at)), [low, a] = colorscale[k - 1], [high, b] = colorscale[k];
    return `color-mix(in srgb, ${b} ${(100 * (share - low) / (high - low)).toFixed()}%, ${a})`;
  }
  return {added, lay};
})();
