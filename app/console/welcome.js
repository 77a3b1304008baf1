// What is there before there is a session: what the bridge is, what it still needs, and a story to watch.

import { fill, h } from './dom.js';

const COMMAND = '.venv/bin/flask drill';
const SENTENCES = [
  'Build a webhook that gets https://example.com/ and answers with it',
  'Every 10 minutes get https://example.com/ and post it to https://example.org/inbox',
  'Build a webhook that answers "hello"',
];

const NEEDS = [
  ['claude', 'Agent', 'Claude answers.', 'A small agent with fixed rules answers. It builds simple workflows and adds retries.', ['ANTHROPIC_API_KEY=sk-ant-…']],
  ['n8n', 'n8n', 'Workflows are built there.', 'None is connected: workflows stay drafts here, and repairs wait for you. On this machine, make n8n installs and starts one.', ['N8N_API_URL=http://127.0.0.1:5678', 'N8N_API_KEY=…']],
  ['callbacks', 'Callbacks', 'Only who knows the secret may report failures.', 'Only this machine may report failures.', ['N8N_CALLBACK_SECRET=…']],
  ['access', 'Access', 'New sessions need the access token.', 'Only this machine may begin sessions.', ['ACCESS_TOKEN=…']],
];

/** Whether this page can play the drill by itself: it calls back in n8n's place, as only this machine may. */
export const canPlay = ({ health, access }) => Boolean(health) && !health.configured.n8n && !health.configured.callbacks && access === 'ok';

/** `actions`: {write(text), play()}. */
export function mountWelcome(root, store, actions) {
  let drawn = '';

  store.subscribe(({ bridge, session }) => {
    root.hidden = Boolean(session);
    const key = JSON.stringify([bridge.health?.configured, bridge.access]);
    if (root.hidden || key === drawn) return;
    drawn = key;
    const { health } = bridge;
    fill(root,
      h('h2', null, 'Say what should happen by itself.'),
      h('p.lead', null, 'The bridge builds it as an n8n workflow. When it fails, the bridge finds out why, proposes a repair, proves it and publishes it, or asks you.'),
      h('ul.examples', { 'aria-label': 'Examples' }, SENTENCES.map((text) => h('li', null, h('button.example', { onclick: () => actions.write(text) }, text)))),
      story(bridge),
      health ? setup(health.configured) : h('p.hint', null, 'What is configured is not known yet.'));
  });

  function story(bridge) {
    const play = h('button.main', { onclick: actions.play }, 'Play the drill');
    const told = canPlay(bridge)
      ? [h('p', null, 'A small workflow is built, broken on purpose, and healed before your eyes. Nothing outside this bridge is touched.'), play]
      : [h('p', null, 'A small workflow is built, broken on purpose, and healed. On the machine of the bridge run:'), h('pre', { tabindex: '0' }, h('code', null, COMMAND)),
          h('p.hint', null, 'With --keep its session stays, to be looked at here.')];
    return h('section.card', { 'aria-label': 'The drill' }, h('h3', null, 'See it heal in a minute'), told);
  }
}

function setup(configured) {
  const rows = NEEDS.map(([key, title, there, missing, lines]) => {
    const ok = configured[key];
    return h('li', { class: ok ? 'there' : 'missing' },
      h('span.sign', { 'aria-hidden': 'true' }, ok ? '✓' : '○'),
      h('div', null, h('strong', null, title), h('span.state', null, ok ? ' is set. ' : ' is not set. '), ok ? there : missing,
        !ok && h('details', null, h('summary', null, 'How to set it'), h('pre', { tabindex: '0' }, h('code', null, lines.join('\n'))),
          h('p.hint', null, 'Put it into the file .env in the bridge’s folder, then stop the bridge (Ctrl-C) and start it again (make run).'))));
  });
  return h('section.setup', { 'aria-label': 'What is set up' }, h('h3', null, 'What is set up here'), h('ul', null, rows));
}
