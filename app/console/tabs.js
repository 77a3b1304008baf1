// Tabs as the ARIA practices describe them: one stop in the tab order, arrows between them.

import { fill, h } from './dom.js';

/**
 * @param tabs [{id, title}], whose panels are the elements `panel-<id>`.
 * @returns {show(id), badge(id, text)}
 */
export function mountTabs(root, tabs, onShow) {
  const buttons = new Map(tabs.map(({ id, title }) => [id, button(id, title)]));
  fill(root, [...buttons.values()]);
  root.addEventListener('keydown', (event) => {
    const order = [...buttons.keys()];
    const at = order.findIndex((id) => buttons.get(id) === document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: order.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    const id = order[(to + order.length) % order.length];
    show(id);
    buttons.get(id).focus();
  });

  function button(id, title) {
    return h('button', { role: 'tab', id: `tab-${id}`, 'aria-controls': `panel-${id}`, onclick: () => show(id) }, title, h('span.badge', { hidden: true }));
  }

  function show(shown) {
    for (const [id, one] of buttons) {
      one.setAttribute('aria-selected', String(id === shown));
      one.tabIndex = id === shown ? 0 : -1;
      document.getElementById(`panel-${id}`).hidden = id !== shown;
    }
    onShow?.(shown);
  }

  return {
    show,
    badge(id, text) {
      const badge = buttons.get(id).querySelector('.badge');
      badge.hidden = !text;
      badge.textContent = text;
    },
  };
}
