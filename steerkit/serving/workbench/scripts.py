"""The little that runs in the browser: marks of a chart, bars of a plot, fields of a table and labels are picked.

1. Of the marks of a group one is in the order of the tab key; arrow keys, Home and End go from one to the next.
2. What a mark says stands in its `aria-label`, and on hover and focus in the group's `.tip`; Escape hides that.
3. A click, or Enter, triggers the event `pick` with the mark's data, `labelled` with a label button's, `pair` with a
   pair's.
"""

from __future__ import annotations

MARKS = """
const MARK = '[data-cell], [data-layer], [data-place]';
const group = () => [...element.querySelectorAll('[data-cell], [data-layer]')];
const hide = () => {
  element.querySelectorAll('.tip').forEach(tip => { tip.hidden = true; });
  element.querySelectorAll('.bar.shown').forEach(bar => bar.classList.remove('shown'));
};
const show = mark => {
  hide();
  const tip = element.querySelector('.tip');
  if (!tip || !mark.dataset.cell) return;
  tip.textContent = mark.getAttribute('aria-label');
  tip.hidden = false;
  const plot = tip.parentElement.getBoundingClientRect(), at = mark.getBoundingClientRect();
  const left = Math.min(Math.max(at.left - plot.left + 18, 0), plot.width - tip.offsetWidth);
  const above = at.top - plot.top - tip.offsetHeight - 8;
  tip.style.left = left + 'px';
  tip.style.top = (above >= -20 ? above : at.bottom - plot.top + 8) + 'px';
  element.querySelectorAll(`.bar[data-of="${mark.dataset.cell}"]`).forEach(bar => bar.classList.add('shown'));
};
const pick = mark => {
  if (!mark.dataset.place) {
    group().forEach(other => {
      other.setAttribute('aria-pressed', other === mark);
      other.tabIndex = other === mark ? 0 : -1;
    });
  }
  trigger('pick', {...mark.dataset});
};
const marked = event => event.target.closest ? event.target.closest(MARK) : null;
element.addEventListener('mouseover', event => { const mark = marked(event); mark ? show(mark) : hide(); });
element.addEventListener('mouseleave', hide);
element.addEventListener('focusin', event => { const mark = marked(event); if (mark) show(mark); });
element.addEventListener('focusout', hide);
element.addEventListener('click', event => { const mark = marked(event); if (mark) pick(mark); });
element.addEventListener('keydown', event => {
  if (event.key === 'Escape') return hide();
  const marks = group(), at = marks.indexOf(document.activeElement);
  if (at < 0) return;
  const step = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1}[event.key];
  const to = step ? at + step : {Home: 0, End: marks.length - 1}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const next = marks[Math.min(Math.max(to, 0), marks.length - 1)];
  marks[at].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});
"""

LABELS = """
element.addEventListener('click', event => {
  const button = event.target.closest ? event.target.closest('[data-label]') : null;
  if (!button) return;
  const was = button.getAttribute('aria-pressed') === 'true';
  button.parentElement.querySelectorAll('[data-label]').forEach(other => other.setAttribute('aria-pressed', 'false'));
  button.setAttribute('aria-pressed', String(!was));
  const of = button.parentElement.dataset;
  trigger('labelled', {...of, cell: of.cellOf, verdict: was ? '' : button.dataset.label});
});
"""

PAIRS = """
element.addEventListener('click', event => {
  const button = event.target.closest ? event.target.closest('[data-at]') : null;
  if (button) trigger('pair', {at: button.dataset.at});
});
"""
