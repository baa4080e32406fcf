/** Bringing old DOM to new DOM with the least change, so that a selection, the focus and the scroll inside stay. */

const placeholders = new WeakSet<Node>();

/** Stands in new DOM for an element that is in the old one at the same place, and stays as it is. */
export function placeholder(tag: "li"): HTMLElement {
  const element = document.createElement(tag);
  placeholders.add(element);
  return element;
}

/** Make the children of `parent` from index `from` on equal to those of `fresh`, which is used up. */
export function morph(parent: Node, from: number, fresh: Node): void {
  let index = from;
  for (const wanted of [...fresh.childNodes]) {
    const present = parent.childNodes[index];
    if (!present) parent.appendChild(wanted);
    else if (!placeholders.has(wanted) && !present.isEqualNode(wanted)) replace(parent, present, wanted);
    index++;
  }
  while (parent.childNodes.length > index) parent.lastChild?.remove();
}

function replace(parent: Node, present: ChildNode, wanted: ChildNode): void {
  if (present instanceof Text && wanted instanceof Text) {
    if (wanted.data.startsWith(present.data)) present.appendData(wanted.data.slice(present.data.length));
    else present.data = wanted.data;
  } else if (present instanceof Element && wanted instanceof Element && sameShell(present, wanted)) {
    if (present.localName === "code") present.replaceChildren(...wanted.childNodes);
    else morph(present, 0, wanted);
  } else parent.replaceChild(wanted, present);
}

function sameShell(one: Element, other: Element): boolean {
  if (one.localName !== other.localName || one.attributes.length !== other.attributes.length) return false;
  return [...one.attributes].every((attribute) => other.getAttribute(attribute.name) === attribute.value);
}
