// For an element with one table: a click on a title sorts by it, another click the other way; new rows are sorted, too.
let by = null, down = true;
const key = row => {
  const cell = row.cells[by], mark = cell.querySelector('[data-key]');
  const text = mark ? mark.dataset.key : cell.textContent;
  const number = parseFloat(text.replace('−', '-').replace('+', ''));
  return mark || cell.classList.contains('num') ? (isNaN(number) ? null : number) : text.toLowerCase();
};
const order = (a, b) => {
  const x = key(a), y = key(b);
  if (x === null || y === null) return (x === null) - (y === null);
  return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
};
const arrange = () => {
  const table = element.querySelector('table');
  if (!table) return;
  table.querySelectorAll('th:not(.act)').forEach((th, i) => {
    th.tabIndex = 0;
    th.setAttribute('aria-sort', th.cellIndex === by ? (down ? 'descending' : 'ascending') : 'none');
  });
  const rows = table.tBodies[0];
  if (by !== null && by < table.tHead.rows[0].cells.length) rows.append(...[...rows.rows].sort(order));
};
const choose = event => {
  const th = event.target.closest('th:not(.act)');
  if (!th || (event.type === 'keydown' && event.key !== 'Enter' && event.key !== ' ')) return;
  event.preventDefault();
  down = th.cellIndex === by ? !down : th.classList.contains('num');
  by = th.cellIndex;
  arrange();
};
element.addEventListener('click', choose);
element.addEventListener('keydown', choose);
watch('value', () => requestAnimationFrame(arrange));
requestAnimationFrame(arrange);
