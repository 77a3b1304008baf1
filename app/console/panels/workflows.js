// Workflows of the session.

import { fill, h, name } from '../dom.js';

export function mount(root, { store }) {
  let drawn = '';
  store.subscribe(({ healing }) => {
    const rows = [...healing.workflows.values()];
    const key = JSON.stringify(rows);
    if (key === drawn) return;
    drawn = key;
    const row = (one) => h('li.card', { class: one.failing ? 'card bad' : 'card' }, h('p.title', null, h('strong', null, name(one.name))),
      h('p.hint', null, one.failing ? ['Failing at ', name(one.failing.node ?? 'an unknown node')] : `Repairs: ${one.autonomy ?? 'unknown'}`));
    fill(root, rows.length ? h('ul.cards', null, rows.map(row)) : h('p.hint', null, 'None yet. What is built in the chat stands here.'));
  });
}
