// Names of users, as their tokens give them. A page only shows them: the pod checks the token.

/**
 * Returns the name of the user of a token, with or without `Bearer`: the `sub` of a JWT, or of claims
 * that stand for a demo user, else the token itself.
 */
export function nameOf(token = '') {
  const text = token.replace(/^bearer +/i, '');
  return subject(text) ?? subject(decoded(text.split('.')[1])) ?? text;
}

function subject(json) {
  try {
    const { sub } = JSON.parse(json);
    return typeof sub === 'string' ? sub : undefined;
  } catch {
    return undefined;
  }
}

function decoded(part = '') {
  try {
    const bytes = atob(part.replaceAll('-', '+').replaceAll('_', '/'));
    return new TextDecoder().decode(Uint8Array.from(bytes, (byte) => byte.charCodeAt(0)));
  } catch {
    return undefined;
  }
}
