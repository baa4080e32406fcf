/** Nothing visible is nothing to show. */

import { dropped, type Filtered } from "./filter";

export function blank(text: string): Filtered {
  return text !== "" && text.trim() === "" ? dropped("only blanks") : { text };
}
