// The tutorial's domain, as the page knows it: its documents, and who should receive a template.
//
// The page shows what arrives. This rule gives the reason, and finds what is missing.

export const WATCH = 'subscription Watch { templateAdded { id name shareLocationIds } }';

const ADD = `mutation Add($name: String!, $locations: [ID!]) {
  addTemplate(templateInput: { name: $name, shareLocationIds: $locations }) { template { id } }
}`;

/** Reason of the author. */
export const OWN = 'authors do not receive their own changes';

const FIND = 'query Find($id: ID!) { templateById(id: $id) { id } }';

/** Returns the document and variables of a mutation. */
export const change = ({ name, shared }) => [ADD, { name, locations: shared }];

/** Returns the template's id, from the answer to the mutation. */
export const idOf = (data) => data.addTemplate.template.id;

/** Returns the document and variables that ask a pod whether it has the template. */
export const find = (id) => [FIND, { id }];

export const isFound = (data) => data.templateById !== null;

/** Returns the locations that a user listens to. */
export const locations = (user) =>
  user.keys.filter((key) => key.startsWith('location:')).map((key) => key.slice('location:'.length));

const list = (words) => (words.length > 1 ? `${words.slice(0, -1).join(', ')} and ${words.at(-1)}` : `${words}`);

/** Returns `location 3`, `locations 3 and 4` or `no location`. */
export const named = (ids) => (ids.length ? `location${ids.length > 1 ? 's' : ''} ${list(ids)}` : 'no location');

/** Returns why the rule leaves a user out, or undefined if it does not. */
export function leftOut(user, { author, shared }) {
  if (user.token === author) return OWN;
  if (!locations(user).some((location) => shared.includes(location))) {
    return `listens to ${named(locations(user))}; this is for ${named(shared)}`;
  }
}

/** Returns by which location a user receives a template. */
export const by = (user, { shared }) => `by ${named(locations(user).filter((location) => shared.includes(location)))}`;
