// Repairs of the session.

import { announce } from '../dialogs.js';
import { fill, h, name } from '../dom.js';

export function mount(root, { store, connection }) {
  let drawn = '';
  const decide = async (type, repairId) => {
    try {
      await connection.command(type, { repairId });
    } catch (error) {
      announce(error.message, { seen: true });
    }
  };
  store.subscribe(({ healing }) => {
    const rows = [...healing.repairs.values()].reverse();
    const key = JSON.stringify(rows.map((one) => [one.repairId, one.state, one.steps.length, one.count]));
    if (key === drawn) return;
    drawn = key;
    const row = (one) => h('li.card', { dataset: { repair: one.repairId } },
      h('p.title', null, h('strong', null, name(one.workflowName ?? one.workflowId)), ` ${one.state}`),
      h('p', { dir: 'auto' }, one.summary ?? one.error?.message),
      one.diff && h('ul', null, one.diff.map((entry) => h('li', null, h('code', null, `${entry.node ?? 'workflow'} ${entry.path}: ${JSON.stringify(entry.before)} \u2192 ${JSON.stringify(entry.after)}`)))),
      one.state === 'waiting' && h('div.buttons', null, h('button.main', { type: 'button', onclick: () => decide('approve', one.repairId) }, 'Approve'), h('button.danger', { type: 'button', onclick: () => decide('reject', one.repairId) }, 'Reject')));
    fill(root, rows.length ? h('ul.cards', null, rows.map(row)) : h('p.hint', null, 'Nothing has failed.'));
  });
}
