// The story at `/` of a cluster: four users on four pods, one change, and who receives it.
//
// All that pods and users send is shown as text, never as markup.

import './base.css';
import './story.css';

import { useEffect, useState, useSyncExternalStore } from 'react';
import { createRoot } from 'react-dom/client';

import { Story } from './model.js';
import { nameOf } from './token.js';
import { locations, named } from './tutorial.js';

const root = document.getElementById('story');
const story = new Story(JSON.parse(root.dataset.cluster));

const CONNECTIONS = { connecting: 'connecting', live: 'live', waiting: 'reconnecting', ended: 'ended' };
const VERDICTS = { waiting: '…', received: 'Received', out: 'Left out', away: 'Away', missed: 'Missed' };

/** Returns the classes whose condition holds. */
const classes = (...names) => names.filter(Boolean).join(' ');

function Page() {
  const state = useSyncExternalStore(story.subscribe, () => story.state);
  useEffect(() => void story.begin(), []);
  const { act, mode, panes } = state;
  const isPublished = act?.stage === 'acknowledged';
  return (
    <>
      <header className="top">
        <p className="logo">pubsub-relay</p>
        <nav aria-label="Pages">
          <a href="./" aria-current="page">
            Story
          </a>
          <a href="graphiql">GraphiQL</a>
        </nav>
      </header>
      <main>
        <h1>Four users, each on another pod. Who receives a change?</h1>
        <Composer state={state} />
        <Mode state={state} />
        <p role="status" className="line">
          {state.line || 'Publish something, and see whom it reaches.'}
        </p>
        <section className="flow" aria-label="From the mutation to the users" data-mode={mode} key={act?.n ?? 0}>
          <div className="mutation" style={{ '--column': (act?.from ?? 0) + 1 }}>
            <p className={classes('step', act && 'on')}>
              <b>mutation</b> {act ? `${nameOf(act.author)} at ${act.pod}` : 'of one user'}
            </p>
            <span className={classes('wire', isPublished && 'on')} />
          </div>
          <Topic state={state} />
          <ol className="panes" aria-label="Users and their pods">
            {panes.map((pane, n) => (
              <Pane key={n} n={n} pane={pane} state={state} />
            ))}
          </ol>
        </section>
        <footer>
          <p>
            Four clients of <code>clients/js</code> run in this page, each connected to its own pod. What you see is what
            they received.{' '}
            {story.isTutorial && 'ZOWI and ZEWI are of organisations that own two locations each; ZOLO and ZELO are at one.'}
          </p>
          <p>
            <a href="page/licences.txt">Licences</a>
          </p>
        </footer>
      </main>
    </>
  );
}

function Composer({ state }) {
  const [from, setFrom] = useState(0);
  const [name, setName] = useState('Hello');
  const [shared, setShared] = useState(['3']);
  const submit = (event) => {
    event.preventDefault();
    story.publish({ from, name, shared });
  };
  const toggle = (location) =>
    setShared(shared.includes(location) ? shared.filter((other) => other !== location) : [...shared, location].sort());
  return (
    <form className="composer" onSubmit={submit} aria-label="Publish a change">
      <label>
        <span>Author</span>
        <select value={from} onChange={(event) => setFrom(Number(event.target.value))}>
          {state.panes.map(({ user }, n) => (
            <option key={n} value={n}>
              {user.name}
            </option>
          ))}
        </select>
      </label>
      {story.isTutorial ? (
        <>
          <label className="grows">
            <span>Template</span>
            <input value={name} required maxLength={200} onChange={(event) => setName(event.target.value)} />
          </label>
          <fieldset className="choices">
            <legend>Shared with locations</legend>
            {story.locations.map((location) => (
              <label key={location}>
                <input type="checkbox" checked={shared.includes(location)} onChange={() => toggle(location)} />
                <span>{location}</span>
              </label>
            ))}
          </fieldset>
        </>
      ) : (
        <Documents state={state} />
      )}
      <button className="primary" disabled={state.isBusy}>
        {story.isTutorial ? 'Add template' : 'Run mutation'}
      </button>
    </form>
  );
}

/** Documents of a declared domain: people may change them. */
function Documents({ state }) {
  return (
    <>
      <label className="grows">
        <span>Subscription of each user</span>
        <textarea
          key={state.watch}
          rows={4}
          defaultValue={state.watch}
          spellCheck={false}
          onBlur={({ target }) => target.value !== state.watch && story.setWatch(target.value)}
        />
      </label>
      <label className="grows">
        <span>Mutation</span>
        <textarea
          rows={4}
          value={state.change}
          spellCheck={false}
          onChange={({ target }) => story.setChange(target.value)}
        />
      </label>
    </>
  );
}

/** Switch between pods that share a topic and the negative control. */
function Mode({ state }) {
  if (!story.places.deaf.length) return null;
  const modes = [
    ['shared', 'One topic for all pods'],
    ['deaf', 'A bus in each pod’s memory'],
  ];
  return (
    <fieldset className="mode choices">
      <legend>Between the pods</legend>
      {modes.map(([mode, label]) => (
        <label key={mode}>
          <input
            type="radio"
            name="mode"
            checked={state.mode === mode}
            disabled={state.isBusy}
            onChange={() => story.setMode(mode)}
          />
          <span>{label}</span>
        </label>
      ))}
    </fieldset>
  );
}

function Topic({ state: { act, mode, panes } }) {
  const isPublished = act?.stage === 'acknowledged';
  if (mode === 'deaf') {
    return (
      <div className="topics">
        {panes.map((_, n) => (
          <p key={n} className={classes('topic', isPublished && n === act.from && 'on')}>
            <b>memory</b> of {story.podOf(n).name}
          </p>
        ))}
      </div>
    );
  }
  return (
    <p className={classes('topic', isPublished && 'on')}>
      <b>topic</b> {isPublished ? 'has the event, and every pod gets it' : 'every pod gets every event'}
    </p>
  );
}

function Pane({ n, pane, state: { act, mode, restart, isBusy } }) {
  const { user, connection, results, meant, count, error } = pane;
  const pod = story.podOf(n);
  const verdict = act?.verdicts[n] ?? { is: 'waiting', why: '' };
  const has = act?.has[pod.name];
  const isOn = typeof has === 'number' || verdict.is === 'received';
  const isRestarting = restart?.n === n && restart.phase !== 'back';
  return (
    <li className={classes('pane', act && verdict.is)} aria-label={`${user.name} on ${pod.name}`}>
      <span className={classes('wire', isOn && 'on')} />
      <div className={classes('pod', isOn && 'on')}>
        <p>
          <b>{pod.name}</b> <span className={classes('state', connection)}>{CONNECTIONS[connection]}</span>
        </p>
        <p className="small">
          {!act || act.stage !== 'acknowledged'
            ? 'no event yet'
            : isOn
              ? 'has the event'
              : has === null
                ? 'never saw the event'
                : '…'}
        </p>
        {mode === 'shared' && (
          <button type="button" disabled={isBusy} onClick={() => story.restart(n)} aria-label={`Restart ${pod.name}`}>
            {isRestarting ? 'Restarting …' : 'Restart'}
          </button>
        )}
      </div>
      <span className={classes('wire', verdict.is === 'received' && 'on')} />
      <div className="user">
        <h2>{user.name}</h2>
        {story.isTutorial ? <p className="small">listens to {named(locations(user))}</p> : <Token n={n} user={user} />}
        {act && act.stage === 'acknowledged' && (
          <p className="verdict">
            <b>{VERDICTS[verdict.is]}</b>
            {verdict.is === 'received' && ` after ${verdict.took} ms`}
            {verdict.why && <span className="why">{verdict.why}</span>}
          </p>
        )}
        {error && (
          <p className="verdict" role="alert">
            {error}
          </p>
        )}
        <ol className="results" aria-label={`Received by ${user.name}`}>
          {results.slice(0, 4).map((result) => (
            <li key={result.key}>
              <time>{new Date(result.at).toLocaleTimeString('en-GB')}</time> <span>{result.text}</span>
              {result.replayed && <em> replayed</em>}
            </li>
          ))}
        </ol>
        <p className="small">{story.isTutorial ? counted(count, meant.length) : `${count} received`}</p>
      </div>
    </li>
  );
}

/** Returns how many of the events for a user have arrived. */
const counted = (count, lack) => (count + lack ? `${count} of ${count + lack} events received` : 'no events yet');

/** Token of a demo user: its name, or its claims as JSON. */
function Token({ n, user }) {
  return (
    <label className="token">
      <span>Token</span>
      <input
        key={user.token}
        defaultValue={user.token}
        spellCheck={false}
        onBlur={({ target }) => target.value !== user.token && story.setToken(n, target.value)}
      />
    </label>
  );
}

createRoot(root).render(<Page />);
