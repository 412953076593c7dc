// The page: GraphiQL with our fetcher. The pod passes the initial tabs in `data-tabs`.

// Not `graphiql/style.css`: half a megabyte of fonts and of styles that esbuild finds by itself.
import '@graphiql/react/style.css';
import '@graphiql/plugin-doc-explorer/style.css';
import '@graphiql/plugin-history/style.css';
import 'graphiql/graphiql.css';
import './base.css';
import './page.css';

import { GraphiQL } from 'graphiql';
import { useRef, useState } from 'react';
import { createRoot } from 'react-dom/client';

import { fetcherOf } from './fetcher.js';
import { Log } from './log.js';
import { Results } from './results.jsx';

const root = document.getElementById('page');
const tabs = JSON.parse(root.dataset.tabs);
/** Pods of the cluster, if this pod is of one: then the story is at `/`. */
const cluster = JSON.parse(root.dataset.cluster);
// Relative, so that the page works below a path of a proxy.
const endpoint = new URL('graphql', document.baseURI).href;
const log = new Log();
/** Name of the pod. Behind a balancer the page knows its address only. */
const pod = cluster?.pods.find(({ url }) => new URL(url).port === location.port)?.name ?? location.host;

/** Time without typing after which a token counts as complete, in milliseconds. */
const TYPED = 700;

const WORKERS = { graphql: 'graphql.worker.js', json: 'json.worker.js' };

globalThis.MonacoEnvironment = {
  getWorker: (_, language) => new Worker(new URL(WORKERS[language] ?? 'editor.worker.js', import.meta.url)),
};

function Page() {
  const [fetcher, setFetcher] = useState(() => fetcherOf(endpoint, log));
  const typing = useRef();
  // Replaces the fetcher after a pause in typing: then GraphiQL loads the schema again, which the
  // pod shows only with a token.
  const askAgain = () => {
    clearTimeout(typing.current);
    typing.current = setTimeout(() => setFetcher(() => fetcherOf(endpoint, log)), TYPED);
  };
  return (
    <>
      {cluster && <Head />}
      <GraphiQL
        fetcher={fetcher}
        defaultTabs={tabs}
        defaultHeaders={tabs[0].headers}
        defaultEditorToolsVisibility="headers"
        onEditHeaders={askAgain}
        // A token is kept as long as the browser's tab. Each tab has its own, so two tabs can be two
        // users.
        storage={sessionStorage}
        shouldPersistHeaders
        showPersistHeadersSettings={false}
      >
        <GraphiQL.Logo>
          <span className="logo">pubsub-relay</span>
        </GraphiQL.Logo>
        <GraphiQL.Footer>
          <Results log={log} pod={pod} />
          <p className="footer">
            Authors do not receive their own changes: watch in one browser tab, change in another, as another user. The token
            stands under <em>Headers</em>. <a href="page/licences.txt">Licences</a>
          </p>
        </GraphiQL.Footer>
      </GraphiQL>
    </>
  );
}

/** Head of a cluster's pages. */
function Head() {
  return (
    <header className="top">
      <p>pubsub-relay</p>
      <nav aria-label="Pages">
        <a href="./">Story</a>
        <a href="graphiql" aria-current="page">
          GraphiQL
        </a>
      </nav>
    </header>
  );
}

createRoot(root).render(<Page />);
