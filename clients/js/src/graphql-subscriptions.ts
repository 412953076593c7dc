import { PubSub, PubSubEngine } from 'graphql-subscriptions';

import { RelayError } from './errors.js';

/** Topic of `@google-cloud/pubsub`, made with `messageOrdering: true`. */
export interface Topic {
  publishMessage(message: { data: Uint8Array; attributes: Record<string, string>; orderingKey?: string }): Promise<unknown>;
  resumePublishing(orderingKey: string): void;
}

/** Event to publish for a call of `publish`. */
export interface Outgoing {
  /** Type of the event, such as `ticket.changed.v1`. */
  type: string;
  /** Data of the event. Default: the payload's only field, or else the whole payload. */
  data?: unknown;
  /** Id of the user who made the change. Fields with `exceptAuthor` leave this user out. */
  author?: string | undefined;
  /** Events with one key keep their order. Default: the data's `id`. */
  orderingKey?: string | undefined;
  /** Unique among the events of the source. Default: a new one. */
  id?: string;
}

export interface RelayPubSubOptions {
  topic: Topic;
  /** Name of this publisher, such as `//shop.example/api`. */
  source: string;
  /**
   * Event of each trigger: its type, or a function of the payload. A single function takes trigger and
   * payload. `null` means that the trigger stays in the engine `local`.
   */
  events: Record<string, EventOf> | ((trigger: string, payload: any) => string | Outgoing | null);
  /** Engine of the server's own subscriptions, as before. Default: in the process. */
  local?: PubSubEngine;
  /** Called with each error of `publish`, which also rejects. Default: `console.error`. */
  onError?: (error: RelayError) => void;
}

type EventOf = string | ((payload: any) => string | Outgoing | null) | null;

/**
 * Engine for graphql-subscriptions that also publishes to the topic of a relay. Its subscriptions are
 * those of the engine `local`, so that old clients go on while new ones connect to the relay.
 */
export class RelayPubSub extends PubSubEngine {
  private readonly local: PubSubEngine;

  constructor(private readonly options: RelayPubSubOptions) {
    super();
    this.local = options.local ?? new PubSub();
  }

  /**
   * Publishes the event of the trigger. Resolves once the topic has acknowledged it and local
   * subscribers have it. If the topic does not take it, local subscribers get nothing.
   */
  publish(trigger: string, payload: any): Promise<void> {
    const published = this.send(trigger, payload);
    // Servers often do not wait for this call: then nothing else handles the error.
    published.catch(this.options.onError ?? ((error: RelayError) => console.error(error)));
    return published;
  }

  subscribe(trigger: string, onMessage: Function, options: object): Promise<number> {
    return this.local.subscribe(trigger, onMessage, options);
  }

  unsubscribe(id: number): any {
    return this.local.unsubscribe(id);
  }

  private async send(trigger: string, payload: any): Promise<void> {
    const event = this.event(trigger, payload);
    if (event) await this.toTopic(trigger, event, payload);
    await this.local.publish(trigger, payload);
  }

  private event(trigger: string, payload: any): Outgoing | null {
    const { events } = this.options;
    let event: string | Outgoing | null | undefined;
    try {
      if (typeof events === 'function') event = events(trigger, payload);
      else if (Object.hasOwn(events, trigger)) {
        const made = events[trigger];
        event = typeof made === 'function' ? made(payload) : made;
      }
    } catch (cause) {
      throw new RelayError('BAD_PAYLOAD', `\`events\` failed for ${trigger}: ${message(cause)}`, { cause });
    }
    if (event === undefined) {
      const text = `\`events\` has no type for ${trigger}. Add one, or null if the trigger stays in this server.`;
      throw new RelayError('UNKNOWN_TRIGGER', text);
    }
    return typeof event === 'string' ? { type: event } : event;
  }

  private async toTopic(trigger: string, event: Outgoing, payload: any): Promise<void> {
    const { topic, source } = this.options;
    const data: any = event.data === undefined ? only(payload) : event.data;
    const text = json(trigger, data);
    const orderingKey = event.orderingKey ?? (data?.id === undefined ? undefined : String(data.id));
    const attributes: Record<string, string> = {
      'ce-specversion': '1.0',
      'ce-id': event.id ?? crypto.randomUUID(),
      'ce-source': source,
      'ce-type': event.type,
      'content-type': 'application/json',
    };
    if (event.author !== undefined) attributes['ce-author'] = String(event.author);
    try {
      await topic.publishMessage({ data: new TextEncoder().encode(text), attributes, ...(orderingKey && { orderingKey }) });
    } catch (cause) {
      // Else the client refuses every later event of this key.
      if (orderingKey) topic.resumePublishing(orderingKey);
      throw new RelayError('PUBLISH_FAILED', `The topic did not take ${trigger}: ${message(cause)}. Publish it again.`, { cause });
    }
  }
}

/** Returns the value of the only field, as in `{ ticketChanged: ticket }`; else the payload. */
function only(payload: any): unknown {
  const values = payload && typeof payload === 'object' && !Array.isArray(payload) ? Object.values(payload) : [];
  return values.length === 1 ? values[0] : payload;
}

function json(trigger: string, data: unknown): string {
  try {
    const text = JSON.stringify(data);
    if (text !== undefined) return text;
  } catch (cause) {
    throw new RelayError('BAD_PAYLOAD', `The payload of ${trigger} is no JSON: ${message(cause)}`, { cause });
  }
  throw new RelayError('BAD_PAYLOAD', `${trigger} has no payload: an event needs data.`);
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
