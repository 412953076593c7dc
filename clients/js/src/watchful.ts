/**
 * Returns a `fetch` whose body fails after a silence. A network can swallow everything without a
 * word; a pod writes at least a comment every 12 s.
 */
export function watchful(inner: typeof fetch, patience: number): typeof fetch {
  return async (input, init) => {
    const lost = new AbortController();
    let silence: ReturnType<typeof setTimeout> | undefined;
    const listen = () => {
      clearTimeout(silence);
      silence = setTimeout(() => lost.abort(new TypeError('no sign of life')), patience);
    };
    const stop = () => clearTimeout(silence);
    listen();
    const signal = init?.signal ? AbortSignal.any([init.signal, lost.signal]) : lost.signal;
    const response = await inner(input, { ...init, signal }).catch((error) => {
      stop();
      throw error;
    });
    if (!response.body) {
      stop();
      return response;
    }
    const reader = response.body.getReader();
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        listen();
        try {
          const { done, value } = await reader.read();
          if (!done) return controller.enqueue(value);
          stop();
          controller.close();
        } catch (error) {
          stop();
          controller.error(error);
        }
      },
      async cancel(reason) {
        stop();
        await reader.cancel(reason);
      },
    });
    const { status, statusText, headers } = response;
    return new Response(body, { status, statusText, headers });
  };
}
