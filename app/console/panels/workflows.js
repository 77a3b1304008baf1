// Workflows of the session: the graph, how far repairs may go, snapshots and the way back, and the way into n8n.

import { announce, ask } from '../dialogs.js';
import { alarm, away, brief, fill, h, name } from '../dom.js';
import { clock } from '../time.js';
import { dial } from './dial.js';
import { differences, diffView } from './diff.js';
import { graph } from './graph.js';

const SETTLE_MS = 200;
const AUTONOMY_WORDS = {
  observe: 'Failures are recorded, nothing else.',
  suggest: 'A diagnosis and a change are shown; nothing is written to n8n.',
  ask: 'A change is tried as a draft; you decide whether it is published.',
  auto: 'What is proven by a run is published; everything else waits for you.',
};
const CAUSES = { repair: 'before a repair', chat: 'before a change from the chat', rollback: 'before an undo' };
// What people have at hand is the editor's address.
const IN_ADDRESS = /\/workflow\/([^/?#\s]+)/;

export function mount(root, { store, api, connection, ui }) {
  const cards = h('ul.cards');
  const empty = h('p.hint', null, 'None yet. What is built in the chat stands here.');
  const views = new Map();
  let owner = null;
  let chosen = null;
  let asked = null;
  let drawn = '';
  let about = {};
  fill(root, empty, cards, adoption());

  function draw({ session, healing, shown }) {
    if (owner !== (session?.id ?? null)) {
      owner = session?.id ?? null;
      [chosen, about] = [null, {}];
      views.clear();
    }
    root.lastChild.hidden = !owner;
    if (shown !== asked) {
      asked = shown;
      chosen = shown?.workflowId ?? chosen;
    }
    const rows = [...healing.workflows.values()];
    const key = JSON.stringify([owner, rows, healing.rev, chosen]);
    if (key === drawn) return;
    drawn = key;
    empty.hidden = rows.length > 0;
    for (const row of rows) if (!views.has(row.workflowId)) views.set(row.workflowId, card(row.workflowId, owner));
    const open = views.has(chosen) ? chosen : (rows.find((row) => row.failing) ?? rows.at(-1))?.workflowId;
    for (const row of rows) views.get(row.workflowId).update(row, row.workflowId === open, healing);
    const nodes = rows.map((row) => views.get(row.workflowId).node);
    if (nodes.some((node, i) => cards.children[i] !== node) || cards.children.length > nodes.length) fill(cards, nodes);
    look();
  }

  // Only what is seen is asked for, and once things have settled.
  function look() {
    clearTimeout(look.timer);
    look.timer = setTimeout(async () => {
      if (!owner || !views.size || !root.checkVisibility() || store.state.connection.is === 'over') return;
      for (const view of views.values()) view.load(store.state.healing.rev);
      if (about.of === views.size) return;
      about.of = views.size;
      try {
        about = { ...(await api.inSession(owner, 'GET', '/workflows')).n8n, of: about.of };
      } catch {
        about = {};
      }
      for (const view of views.values()) view.tell(about);
    }, SETTLE_MS);
  }
  new IntersectionObserver(look).observe(root);

  function adoption() {
    const problem = alarm();
    const field = h('input', { id: 'adopt', autocomplete: 'off', spellcheck: 'false', maxlength: '512', required: true });
    const submit = async (event) => {
      event.preventDefault();
      const workflowId = IN_ADDRESS.exec(field.value)?.[1] ?? field.value.trim();
      fill(problem);
      try {
        await api.inSession(owner, 'POST', '/workflows', { workflowId });
        field.value = '';
        chosen = workflowId;
        announce('It is a workflow of this session now.', { seen: true });
        store.set({});
      } catch (error) {
        fill(problem, `It could not be adopted: ${error.message}`);
      }
    };
    return h('details.adopt', null, h('summary', null, 'Adopt a workflow that exists'),
      h('form', { onsubmit: submit }, h('label', { for: 'adopt' }, 'Its id, or its address in n8n’s editor'), h('div.buttons', null, field, h('button.main', { type: 'submit' }, 'Adopt')),
        h('p.hint', null, 'Its failures are repaired from then on, as far as you allow. n8n is told where to report them.'), problem));
  }

  /** One workflow. Its node stays; `load` asks for what it is, where that may have changed. */
  function card(workflowId, sessionId) {
    const path = `/workflows/${encodeURIComponent(workflowId)}`;
    const get = (rest = '') => api.inSession(sessionId, 'GET', path + rest);
    const body = h('div.inside');
    const title = h('button.fold', { onclick: () => { chosen = body.hidden ? workflowId : chosen; store.set({}); } });
    const picture = h('div.picture', { tabindex: '0', role: 'group', 'aria-label': 'Graph, scrollable' }, h('p.hint', null, 'Loading …'));
    const failure = h('div.failure');
    const autonomy = dial('How far repairs may go', AUTONOMY_WORDS, (step) => connection.command('set_autonomy', { workflowId, autonomy: step }));
    const editor = h('a.button', { target: '_blank', rel: 'noopener noreferrer', hidden: true }, 'Open in n8n');
    const download = h('button.quiet', { disabled: true, onclick: save }, 'Download');
    const reports = h('p.hint');
    const list = h('ol.snapshots');
    const opened = new Set();
    const snapshots = h('details', { ontoggle: () => snapshots.open && loadSnapshots() }, h('summary', null, 'Snapshots, and the way back'), list);
    fill(body, picture, failure, h('div', null, h('h4', null, 'How far repairs may go'), autonomy.node), h('div.buttons', null, editor, download), reports, snapshots);
    const node = h('li.card.workflow', { dataset: { workflow: workflowId } }, h('h3', null, title), body);
    let [row, workflow, loaded, loading, painted, n8n] = [{}, null, -1, null, '', {}];

    function paint() {
      if (body.hidden) return;
      // As it is, it keeps the place to which somebody has scrolled.
      const key = workflow && JSON.stringify([workflow.nodes, workflow.connections, row.failing?.node]);
      if (!key || key === painted) return;
      painted = key;
      try {
        fill(picture, workflow.nodes?.length ? graph(workflow, row.failing?.node) : h('p.hint', null, 'It has no nodes.'));
      } catch (error) {
        fill(picture, h('p.problem', null, `It cannot be drawn: ${error.message}`));
      }
      const mark = picture.querySelector('.fails');
      if (mark) picture.scrollLeft += mark.getBoundingClientRect().left - picture.getBoundingClientRect().left - picture.clientWidth / 3;
    }

    function load(rev) {
      if (body.hidden || loaded === rev) return;
      loaded = rev;
      loading = read(rev);
    }

    async function read(rev) {
      try {
        const found = await get();
        if (rev !== loaded) return;
        workflow = found;
        download.disabled = false;
        paint();
        tell(n8n);
        if (snapshots.open) loadSnapshots();
      } catch (error) {
        if (rev !== loaded) return;
        // Asked again when it is looked at next.
        loaded = -1;
        const again = h('button.quiet', { onclick: () => load(rev) }, 'Try again');
        if (workflow) return;
        if (error.status === 404 && !n8n.editorUrl) fill(picture, h('p.hint', null, 'Only its id is known so far. Once it has failed, what is known of it is shown here.'));
        else fill(picture, h('p.problem', null, `It cannot be shown: ${error.message}`), again);
      }
    }

    function tell(told) {
      n8n = told;
      editor.hidden = !n8n.editorUrl;
      if (n8n.editorUrl) editor.href = `${n8n.editorUrl.match(/^https?:.*/) ?? ''}/workflow/${encodeURIComponent(workflowId)}`;
      const ours = n8n.errorWorkflow;
      const own = workflow?.settings?.errorWorkflow;
      if (!ours || !workflow) return;
      const words = ours.problem ?? (!own ? 'It names no error workflow, so n8n tells nobody when it fails. The bridge asks n8n now and then.'
        : own === ours.workflowId ? 'n8n reports its failures here, by the bridge’s error workflow.' : 'It has an error workflow of its own. The bridge asks n8n now and then for its failures.');
      reports.classList.toggle('problem', Boolean(ours.problem));
      fill(reports, words);
    }

    function save() {
      const file = URL.createObjectURL(new Blob([JSON.stringify(workflow, null, 2)], { type: 'application/json' }));
      const safe = String(workflow.name ?? workflowId).replace(/[^\w .-]+/g, '_').slice(0, 80);
      Object.assign(document.createElement('a'), { href: file, download: `${safe}.json` }).click();
      setTimeout(() => URL.revokeObjectURL(file), 10_000);
    }

    async function loadSnapshots() {
      try {
        const [{ snapshots: found }] = await Promise.all([get('/snapshots'), loading]);
        if (!workflow) throw new Error('What is there now cannot be read, so there is nothing to compare with.');
        const key = JSON.stringify([found.map((one) => one.snapshotId), workflow.versionId]);
        if (list.dataset.key === key) return;
        list.dataset.key = key;
        fill(list, found.length ? found.map(snapshot) : h('li.hint', null, 'None: nothing was changed here yet.'));
      } catch (error) {
        fill(list, h('li.problem', { role: 'alert' }, error.message));
      }
    }

    function snapshot(one) {
      const inside = h('div.inside');
      const problem = alarm();
      const when = `${clock(one.at)}, ${CAUSES[one.cause] ?? one.cause}`;
      const back = h('button.danger', { onclick: rollBack }, 'Roll back to this');
      const compare = () => {
        if (!details.open || inside.firstChild) return;
        const found = differences(one.workflow, workflow);
        fill(inside, found.length ? [diffView(found, ['Then', 'Now']), back] : h('p.hint', null, 'The workflow is like this now.'), problem);
      };
      async function rollBack() {
        const yes = await ask({ title: 'Roll back?', text: `The workflow becomes what it was at ${when}. A repair that runs is stopped. What is there now is kept as a snapshot.`, yes: 'Roll back', danger: true });
        if (yes === null || back.ariaDisabled) return;
        back.ariaDisabled = 'true';
        fill(problem);
        try {
          await connection.command('rollback', { workflowId, snapshotId: one.snapshotId });
          announce('It is rolled back.', { seen: true });
        } catch (error) {
          fill(problem, `It was not rolled back: ${error.message}`);
        }
        back.ariaDisabled = null;
      }
      const toggled = () => {
        opened[details.open ? 'add' : 'delete'](one.snapshotId);
        compare();
      };
      const details = h('details', { open: opened.has(one.snapshotId), ontoggle: toggled }, h('summary', null, when), inside);
      return h('li', null, details);
    }

    function update(now, isOpen, healing) {
      row = now;
      body.hidden = !isOpen;
      title.setAttribute('aria-expanded', String(isOpen));
      fill(title, h('strong', null, name(row.name)), row.failing && h('span.badge.alarm', null, 'failing'));
      node.classList.toggle('bad', Boolean(row.failing));
      autonomy.show(row.autonomy);
      const { failing } = row;
      const repair = failing && [...healing.repairs.values()].findLast((one) => one.workflowId === workflowId);
      const run = failing?.executionUrl;
      fill(failure, failing && [
        h('p', { dir: 'auto' }, h('strong', null, name(failing.node ?? 'The workflow')), ' failed: ', brief(failing.message) ?? 'n8n told no message.', h('span.hint', null, ` ${clock(failing.at)}`)),
        h('div.buttons', null, repair && h('button.quiet', { onclick: () => ui.show('repairs', { repairId: repair.repairId }) }, 'See the repair'),
          run && away(run, 'The run in n8n')),
      ]);
      paint();
    }

    return { node, update, load, tell };
  }

  store.subscribe(draw);
}
