// Documents for a declared domain, from the schema that a pod shows.
//
// They are a start: people change them on the page.

import { run } from './cluster.js';

const SCHEMA = `query Schema { __schema {
  subscriptionType { fields { ...Field } }
  mutationType { fields { ...Field } }
  types { kind name enumValues { name } fields { ...Field } inputFields { name type { ...Type } } }
} }
fragment Field on __Field { name args { name type { ...Type } } type { ...Type } }
fragment Type on __Type { kind name ofType { kind name ofType { kind name ofType { kind name } } } }`;

/** Fills in an argument, to this depth of input types. */
const DEPTH = 3;

/** Returns a subscription and a mutation, each the first of the schema. */
export async function documents(pod, token) {
  const { __schema: schema } = await run(pod, token, SCHEMA);
  const types = new Map(schema.types.map((type) => [type.name, type]));
  const document = (operation, field, args) =>
    field ? `${operation} {\n  ${field.name}${inputs(args, types)}${selection(field.type, types)}\n}` : '';
  const [watch, change] = [schema.subscriptionType?.fields[0], schema.mutationType?.fields[0]];
  return {
    watch: document(
      'subscription',
      watch,
      watch?.args.filter(({ type }) => type.kind === 'NON_NULL'),
    ),
    change: document('mutation', change, change?.args),
  };
}

const base = (type) => (type.ofType ? base(type.ofType) : type);
const isLeaf = (type) => ['SCALAR', 'ENUM'].includes(base(type).kind);

function selection(type, types) {
  if (isLeaf(type)) return '';
  const fields = types.get(base(type).name)?.fields ?? [];
  const names = fields.filter((field) => isLeaf(field.type) && !field.args.length).map(({ name }) => name);
  return ` { ${names.join(' ') || '__typename'} }`;
}

function inputs(args, types) {
  return args?.length ? `(${args.map(({ name, type }) => `${name}: ${value(type, types, DEPTH)}`).join(', ')})` : '';
}

function value(type, types, depth) {
  if (type.kind === 'NON_NULL') return value(type.ofType, types, depth);
  if (type.kind === 'LIST') return `[${value(type.ofType, types, depth)}]`;
  const { kind, enumValues, inputFields } = types.get(type.name) ?? type;
  if (kind === 'ENUM') return enumValues[0].name;
  if (kind === 'INPUT_OBJECT') {
    if (!depth) return '{}';
    return `{ ${inputFields.map((field) => `${field.name}: ${value(field.type, types, depth - 1)}`).join(', ')} }`;
  }
  return { Int: '1', Float: '1.5', Boolean: 'true', ID: '"1"' }[type.name] ?? '"Hello"';
}
