-- The topic of pubsub-relay as tables in a schema. This script may run any number of times.
-- It needs PostgreSQL 14 or newer, and a role that may create the schema, or that owns it.
-- It grants nothing: see docs/POSTGRES.md for the rights of pods and publishers.
begin;

do $$ begin
  -- One of several pods that start together runs it, the others wait.
  perform pg_advisory_xact_lock(hashtextextended('pubsub-relay schema {topic}', 0));
  if current_setting('server_encoding') <> 'UTF8' then
    raise exception 'the database has the encoding %: create it with encoding UTF8',
      current_setting('server_encoding');
  end if;
  if to_regclass('{topic}.topic') is not null then
    if (select max(version) from {topic}.topic) > {version} then
      raise exception 'the schema "{topic}" is of a newer release';
    end if;
  end if;
end $$;

create schema if not exists {topic};

-- One row: the version of these tables, and the position up to which events were deleted.
create table if not exists {topic}.topic (
  one boolean primary key default true check (one),
  version integer not null,
  trimmed_to bigint not null default 0
);

-- Last position, in microseconds since 1970. A sequence, since a row would make callers in
-- REPEATABLE READ fail.
create sequence if not exists {topic}.clock as bigint minvalue 0 start 0;

-- Returns the next position: the time, but never twice the same and never an earlier one. The
-- caller holds the lock of the topic.
create or replace function {topic}.tick() returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
  t bigint := (extract(epoch from clock_timestamp()) * 1000000)::bigint;
  n bigint := nextval('{topic}.clock');
begin
  if t > n then
    perform setval('{topic}.clock', t);
    return t;
  end if;
  return n;
end $$;

create table if not exists {topic}.events (
  position bigint primary key default {topic}.tick(),
  id text not null,
  source text not null,
  type text not null,
  time text,
  author text,
  trace text,
  content_type text,
  extensions jsonb,
  data bytea not null
);

-- Holds the lock of the topic from the stamp until the commit is visible. So positions become
-- visible in their order, and a reader behind the last one misses none.
create or replace function {topic}.serialise() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  perform pg_advisory_xact_lock(hashtextextended('pubsub-relay topic {topic}', 0));
  return null;
end $$;

-- Wakes the readers: one empty note for each transaction, however many rows it has.
create or replace function {topic}.wake() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
  notify {topic}_events;
  return null;
end $$;

create or replace trigger serialise before insert on {topic}.events
  for each statement execute function {topic}.serialise();
create or replace trigger wake after insert on {topic}.events
  for each statement execute function {topic}.wake();

-- Events that another transaction publishes at its commit. Its rows are moved then, so that no
-- other publisher waits while it is open.
create table if not exists {topic}.outbox (
  id text not null default gen_random_uuid()::text
    check (octet_length(id) between 1 and 256 and id !~ '[\u0001-\u001f\u007f-\u009f]'),
  source text not null default '/sql'
    check (octet_length(source) between 1 and 1024 and source !~ '[\u0001-\u001f\u007f-\u009f]'),
  type text not null
    check (octet_length(type) between 1 and 256 and type !~ '[\u0001-\u001f\u007f-\u009f]'),
  time text,
  author text
    check (octet_length(author) <= 256 and author !~ '[\u0001-\u001f\u007f-\u009f]'),
  trace text check (octet_length(trace) <= 256),
  content_type text default 'application/json' check (octet_length(content_type) <= 256),
  extensions jsonb check (jsonb_typeof(extensions) = 'object'),
  data bytea not null check (octet_length(data) between 1 and 9000000)
);
create index if not exists outbox_id on {topic}.outbox (id);

create or replace function {topic}.release() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  insert into {topic}.events (id, source, type, time, author, trace, content_type, extensions, data)
    values (new.id, new.source, new.type, new.time, new.author, new.trace, new.content_type,
      new.extensions, new.data);
  delete from {topic}.outbox where id = new.id;
  return null;
end $$;
drop trigger if exists release on {topic}.outbox;
create constraint trigger release after insert on {topic}.outbox
  deferrable initially deferred for each row execute function {topic}.release();

-- Publishes an event at the commit of the caller's transaction. Returns its id.
create or replace function {topic}.publish(
  type text,
  data jsonb,
  author text default null,
  source text default '/sql',
  id text default gen_random_uuid()::text
) returns text
language sql security definer set search_path = pg_catalog, pg_temp as $$
  insert into {topic}.outbox (id, source, type, author, data)
    values (publish.id, publish.source, publish.type, publish.author,
      convert_to(publish.data::text, 'UTF8'))
    returning outbox.id
$$;

revoke all on all functions in schema {topic} from public;

insert into {topic}.topic (version) values ({version})
  on conflict (one) do update set version = excluded.version;

commit;
