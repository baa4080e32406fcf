/** What a git command does to what is committed, and to what is not. */

import { type Arguments, changes, dangerous, type Judge, SAFE, type Verdict } from "./verdict";

const READS = new Set(
  (
    "status log diff show blame annotate shortlog describe rev-parse rev-list ls-files ls-tree ls-remote cat-file grep " +
    "reflog name-rev merge-base count-objects whatchanged cherry diff-tree diff-index diff-files for-each-ref help " +
    "version var check-ignore check-attr show-ref show-branch range-diff verify-commit verify-tag fsck"
  ).split(" "),
);
const VALUE_OPTIONS = new Set(["-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path", "--config-env"]);
const RUNS_BY_SETTING =
  /^(?:alias\.[^=]*=!|core\.(?:pager|editor|fsmonitor|sshcommand|hookspath|askpass)=(?!cat$|false$|$)|(?:diff|filter|merge|pager|credential|sequence)\.[^=]*=\S*[\s!/])/i;
const REWRITES = "rewrites commits that are there already";
const DISCARDS = "throws away changes that were never committed";

const BY_NAME: Readonly<Record<string, (given: Arguments) => Verdict>> = {
  push: judgePush,
  reset: (given) =>
    given.has("hard", "merge", "keep") ? dangerous(DISCARDS) : changes("moves the branch or the index"),
  clean: (given) => (given.has("n", "dry-run") ? SAFE : dangerous("deletes files that git does not track")),
  checkout: judgeCheckout,
  restore: (given) =>
    given.has("staged", "S") && !given.has("worktree", "W") ? changes("changes the index") : dangerous(DISCARDS),
  switch: (given) =>
    given.has("f", "force", "discard-changes", "C") ? dangerous(DISCARDS) : changes("switches the branch"),
  rebase: (given) => (given.has("abort", "quit") ? changes("ends a rebase") : dangerous(REWRITES)),
  commit: (given) => (given.has("amend") ? dangerous(REWRITES) : changes("commits")),
  "filter-branch": () => dangerous(REWRITES),
  "filter-repo": () => dangerous(REWRITES),
  replace: () => dangerous(REWRITES),
  gc: (given) =>
    given.begins("--prune") ? dangerous("deletes commits that no branch holds") : changes("packs the repository"),
  prune: () => dangerous("deletes commits that no branch holds"),
  "update-ref": (given) => (given.has("d") ? dangerous("deletes a reference") : changes("moves a reference")),
  branch: judgeBranch,
  tag: judgeTag,
  stash: judgeStash,
  remote: (given) =>
    ["", "show", "get-url"].includes(given.operand(0)) ? SAFE : changes("changes the list of remote repositories"),
  worktree: (given) => {
    if (given.operand(0) === "list") return SAFE;
    return given.has("f", "force") ? dangerous(DISCARDS) : changes("changes the working trees");
  },
  config: judgeConfig,
  submodule: (given) => {
    if (["status", "summary", ""].includes(given.operand(0))) return SAFE;
    return given.operand(0) === "foreach"
      ? dangerous("runs a command in every submodule")
      : changes("changes submodules");
  },
  bisect: (given) => (given.operand(0) === "log" ? SAFE : changes("checks out other commits")),
  fetch: (given) => (given.has("f", "force") ? dangerous(REWRITES) : changes("fetches over the network")),
  pull: (given) =>
    given.has("f", "force") ? dangerous(REWRITES) : changes("fetches over the network and changes files"),
  rm: (given) => (given.has("cached") ? changes("takes files out of the index") : dangerous("deletes files")),
};

/** `git …`. An option that makes git run something else is never safe. */
export const judgeGit: Judge = (given) => {
  const { name, rest, at } = given.subcommand(VALUE_OPTIONS);
  const before = given.texts.slice(0, at);
  if (before.some((text) => RUNS_BY_SETTING.test(text)) || rest.begins("--upload-pack", "--receive-pack", "--exec")) {
    return dangerous("gives git a program to run");
  }
  const verdict = judgeSubcommand(name, rest);
  if (verdict.level !== "safe" || !before.some((text) => /^(?:-c$|--exec-path|--config-env)/.test(text)))
    return verdict;
  return changes("gives git settings of its own, which can run other programs");
};

function judgeSubcommand(name: string, rest: Arguments): Verdict {
  const judge = BY_NAME[name];
  if (judge !== undefined && Object.hasOwn(BY_NAME, name)) return judge(rest);
  if (name === "reflog" && /^(?:expire|delete)$/.test(rest.operand(0))) {
    return dangerous("deletes the record from which lost commits are found");
  }
  if (name === "" || READS.has(name)) {
    if (rest.begins("--output") || rest.has("ext-diff")) return changes("writes a file, or runs another program");
    if (name === "grep" && (rest.has("O") || rest.begins("--open-files"))) return changes("opens a program of its own");
    return SAFE;
  }
  return changes(name === "clone" ? "downloads a repository" : `changes the repository (git ${name.slice(0, 30)})`);
}

function judgePush(given: Arguments): Verdict {
  if (given.has("n", "dry-run")) return changes("asks the remote repository");
  if (given.has("f", "force", "mirror", "prune") || given.begins("--force-with-lease", "--force-if-includes")) {
    return dangerous("overwrites commits in the remote repository");
  }
  if (given.operands.some((word) => word.text.startsWith("+"))) {
    return dangerous("overwrites commits in the remote repository");
  }
  if (given.has("d", "delete") || given.operands.slice(1).some((word) => word.text.startsWith(":"))) {
    return dangerous("deletes a branch or tag in the remote repository");
  }
  return changes("sends commits to the remote repository");
}

function judgeCheckout(given: Arguments): Verdict {
  if (given.has("f", "force", "B") || given.texts.includes("--") || given.operand(0) === ".")
    return dangerous(DISCARDS);
  return changes("switches the branch or changes files");
}

function judgeBranch(given: Arguments): Verdict {
  if (given.has("D") || (given.has("d", "delete") && given.has("f", "force"))) {
    return dangerous("deletes a branch even when its commits are nowhere else");
  }
  if (given.has("f", "force", "M", "C")) return dangerous("moves a branch away from its commits");
  const lists = given.has(
    "l",
    "list",
    "a",
    "all",
    "r",
    "remotes",
    "show-current",
    "v",
    "contains",
    "merged",
    "no-merged",
  );
  if (given.operands.length === 0 && !given.has("d", "m", "c", "u", "delete", "move", "copy", "edit-description"))
    return SAFE;
  if (lists && !given.has("d", "m", "c", "u", "delete", "move", "copy")) return SAFE;
  return changes("changes branches");
}

function judgeTag(given: Arguments): Verdict {
  if (given.has("f", "force")) return dangerous("moves a tag away from its commit");
  if (given.has("d", "delete")) return changes("deletes a tag");
  if (given.operands.length === 0 || given.has("l", "list", "n", "contains", "points-at")) return SAFE;
  return changes("makes a tag");
}

function judgeStash(given: Arguments): Verdict {
  const action = given.operand(0);
  if (action === "list" || action === "show") return SAFE;
  if (action === "drop" || action === "clear") return dangerous("throws away stashed changes");
  return changes("moves uncommitted changes to or from the stash");
}

function judgeConfig(given: Arguments): Verdict {
  if (given.has("get", "get-all", "get-regexp", "list", "l", "show-origin") && !given.has("unset", "add")) return SAFE;
  if (given.operand(0) === "get" || given.operand(0) === "list") return SAFE;
  if (given.operands.length === 1 && !given.begins("--unset", "--remove", "--edit", "-e")) return SAFE;
  if (
    given.operands.some((word) => /^(?:alias\.|core\.(?:pager|editor|hookspath|fsmonitor|sshcommand))/i.test(word.text))
  ) {
    return dangerous("sets what git runs by itself later");
  }
  return changes("changes git's settings");
}
