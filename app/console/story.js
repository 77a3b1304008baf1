// The drill, played by the page: build, break, watch it heal, decide, look at what was changed. What has happened is read
// from the session's events, so it goes on after a reload, and each step is taken by the person.

import * as api from './api.js';
import { announce } from './dialogs.js';
import { fill, h } from './dom.js';
import * as kept from './kept.js';

const REQUEST = 'Build a webhook that gets http://service.example/price and answers with it';
const HTTP_REQUEST = 'n8n-nodes-base.httpRequest';
const COMMAND = '.venv/bin/flask drill';

const ENDS = {
  published: 'The repair is published, and an undo is kept.',
  rejected: 'You said no, so the workflow is as it was.',
  rolled_back: 'The repair is undone: the workflow is as it was.',
  expired: 'Nobody decided in time, so the workflow is as it was.',
  failed: 'It was not repaired.',
  blocked: 'It was not repaired, and needs a person now.',
};

/** Begins it in a new session; gives the session's id and what is said in it, if anything. */
export async function begin(health) {
  const id = await api.openSession();
  const isBuilt = !health.configured.claude;
  kept.keepSession(id, { name: 'Drill', story: isBuilt ? 'built' : 'adopted' });
  if (isBuilt) return { id, text: REQUEST };
  // A model may build what does not break. What is adopted by its id alone is known by what its callback tells.
  const body = { workflowId: api.newId().slice(0, 16), name: 'Price service', autonomy: 'auto' };
  await api.inSession(id, 'POST', '/workflows', body);
  return { id, text: null };
}

/** `ui`: {show(tab, what)}. */
export function mountStory(root, store, ui) {
  let drawn = '';

  store.subscribe(({ session, healing, chat }) => {
    const known = session && kept.sessions()[session.id];
    root.hidden = !known?.story;
    if (root.hidden) {
      drawn = '';
      return;
    }
    const workflow = [...healing.workflows.values()][0];
    const repair = [...healing.repairs.values()].at(-1);
    const isOver = repair && repair.state in ENDS;
    const at = !workflow || (!repair && chat.turns.size) ? 0 : !repair ? 1 : isOver ? 4 : !repair.diff ? 2 : 3;
    const key = `${session.id} ${at} ${repair?.state}`;
    if (key === drawn) return;
    drawn = key;
    draw(at, workflow, repair, session.id);
  });

  function draw(at, workflow, repair, id) {
    const button = (words, onclick, kind = 'main') => h(`button.${kind}`, { onclick }, words);
    const see = (words) => button(words, () => ui.show('repairs', { repairId: repair.repairId }));
    const isHealed = repair?.state === 'published';
    const steps = [
      ['Build', 'The agent builds a workflow from one sentence.', null],
      ['Break', 'Now let its call of the service fail, as n8n would report it.', () => button('Break it', (event) => breakIt(event.target, id, workflow))],
      ['Diagnose', 'The failure has been reported. The agent looks for the cause.', null],
      ['Decide', repair?.state === 'waiting' ? 'A repair is proposed. No n8n is connected that could prove it, so you decide.' : 'A repair is proposed.', () => see('Look at the changes')],
      [at === 4 && !isHealed ? 'Over' : 'Healed', ENDS[repair?.state], () => [see(isHealed ? 'See what was changed' : 'See the repair'), button('Close this', () => leave(id), 'quiet')]],
    ];
    const items = steps.map(([title], i) => h('li', { class: i < at || isHealed ? 'done' : i === at ? 'now' : null, 'aria-current': i === at && 'step' }, title));
    const [, words, action] = steps[at];
    const hadFocus = root.contains(document.activeElement);
    fill(root, h('section.story', { 'aria-label': 'The drill' }, h('ol', null, items), h('p', null, words), h('div.buttons', null, action?.())));
    if (hadFocus) (root.querySelector('button') ?? document.getElementById('message')).focus();
  }

  function leave(id) {
    kept.keepSession(id, { story: null });
    store.set({});
  }

  async function breakIt(button, id, workflow) {
    // It fails once, however often it is clicked. Not `disabled`, which would lose the keyboard's place.
    if (button.ariaDisabled) return;
    button.ariaDisabled = 'true';
    try {
      await api.command(id, 'set_autonomy', { workflowId: workflow.workflowId, autonomy: 'auto' });
      await api.call('POST', 'callbacks/n8n/error', failureOf(workflow, await failing(id, workflow)));
    } catch (error) {
      button.ariaDisabled = null;
      announce(`It could not be broken from here (${error.message}). On the machine of the bridge, ${COMMAND} does it.`, { seen: true });
    }
  }
}

/** The node that is to fail; one made up where the workflow is known by its id only. */
async function failing(id, workflow) {
  if (kept.sessions()[id]?.story === 'built') {
    const draft = await api.inSession(id, 'GET', `/workflows/${encodeURIComponent(workflow.workflowId)}`);
    const found = draft.nodes.find((node) => node.type === HTTP_REQUEST);
    if (found) return found;
  }
  const parameters = { method: 'GET', url: 'http://service.example/price', options: {} };
  return { id: api.newId(), name: 'Ask the service', type: HTTP_REQUEST, typeVersion: 4.2, position: [220, 0], parameters };
}

/** What n8n 2.41 reports of an HTTP Request that got a 503. */
function failureOf({ workflowId, name }, node) {
  const run = `drill-${api.newId().slice(0, 8)}`;
  const message = 'Service unavailable - try again later or consider setting this node to retry automatically';
  const error = { name: 'NodeApiError', message, description: 'The drill lets this call fail.', httpCode: '503', node };
  // There is no address of the run: nobody could open it.
  return { execution: { id: run, mode: 'webhook', lastNodeExecuted: node.name, error }, workflow: { id: workflowId, name } };
}
