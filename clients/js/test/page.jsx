// A React page that uses the hook, as an application would.

import { StrictMode, useMemo, useState } from 'react';
import { createRoot } from 'react-dom/client';

import { sessionStore } from 'pubsub-relay-client';
import { createRelayClient } from 'pubsub-relay-client/graphql-ws';
import { useRelaySubscription } from 'pubsub-relay-client/react';

const url = new URLSearchParams(location.search).get('relay');
const request = { query: 'subscription { templateAdded { name } }' };

function Templates() {
  const [names, setNames] = useState([]);
  const [state, setState] = useState('');
  const [isOn, setOn] = useState(true);
  const client = useMemo(
    () =>
      createRelayClient({
        url,
        token: () => 'ZOLO',
        storage: sessionStore(),
        onState: setState,
        retryWait: () => new Promise((done) => setTimeout(done, 100)),
      }),
    [],
  );
  const { error } = useRelaySubscription(client, isOn ? request : null, {
    onResult: ({ data }) => setNames((names) => [...names, data.templateAdded.name]),
    onGap: ({ reason }) => setNames((names) => [...names, `gap: ${reason}`]),
  });
  return (
    <>
      <output>{state}</output>
      <ul>
        {names.map((name) => (
          <li key={name}>{name}</li>
        ))}
      </ul>
      <p role="alert">{error?.code}</p>
      <button onClick={() => setOn(!isOn)}>switch</button>
    </>
  );
}

createRoot(document.querySelector('main')).render(
  <StrictMode>
    <Templates />
  </StrictMode>,
);
