// The page: GraphiQL around our fetcher. The pod says in `data-tabs` what it opens with.

// Not `graphiql/style.css`, half a megabyte for fonts and for what esbuild finds by itself.
import '@graphiql/react/style.css';
import '@graphiql/plugin-doc-explorer/style.css';
import '@graphiql/plugin-history/style.css';
import 'graphiql/graphiql.css';
import './page.css';

import { GraphiQL } from 'graphiql';
import { useRef, useState } from 'react';
import { createRoot } from 'react-dom/client';

import { fetcherOf } from './fetcher.js';

const root = document.getElementById('page');
const tabs = JSON.parse(root.dataset.tabs);
// Relative, for a pod that a proxy serves below a path.
const endpoint = new URL('graphql', document.baseURI).href;

/** How long nothing must have been typed for a token to be whole, in milliseconds. */
const TYPED = 700;

const WORKERS = { graphql: 'graphql.worker.js', json: 'json.worker.js' };

globalThis.MonacoEnvironment = {
  getWorker: (_, language) => new Worker(new URL(WORKERS[language] ?? 'editor.worker.js', import.meta.url)),
};

function Page() {
  const [fetcher, setFetcher] = useState(() => fetcherOf(endpoint));
  const typing = useRef();
  // The schema, too, is shown to those with a token only: GraphiQL asks for it again when its fetcher is another one.
  const askAgain = () => {
    clearTimeout(typing.current);
    typing.current = setTimeout(() => setFetcher(() => fetcherOf(endpoint)), TYPED);
  };
  return (
    <GraphiQL
      fetcher={fetcher}
      defaultTabs={tabs}
      defaultHeaders={tabs[0].headers}
      defaultEditorToolsVisibility="headers"
      onEditHeaders={askAgain}
      // Tokens are kept as long as the browser's tab, and each tab has its own: two of them are two users.
      storage={sessionStorage}
      shouldPersistHeaders
      showPersistHeadersSettings={false}
    >
      <GraphiQL.Logo>
        <span className="logo">pubsub-relay</span>
      </GraphiQL.Logo>
      <GraphiQL.Footer>
        <p className="footer">
          Authors are not told of their own changes: watch in one browser tab, change in another, as another user. The token
          stands under <em>Headers</em>. <a href="page/licences.txt">Licences</a>
        </p>
      </GraphiQL.Footer>
    </GraphiQL>
  );
}

createRoot(root).render(<Page />);
