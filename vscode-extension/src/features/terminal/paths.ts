/** Which places a command had better not write to, and which hold secrets. */

import { changes, dangerous, SAFE, type Verdict } from "./verdict";
import type { Word } from "./words";

const NOWHERE = /^(?:\/dev\/(?:null|stdout|stderr|stdin|tty|fd\/\d+)|nul|\$null|-|\d+-?)$/i;
const DEVICE =
  /^(?:\/dev\/(?:sd|hd|vd|xvd|nvme|mmcblk|disk|rdisk|mapper|md|loop|mem|kmem|port|dm-)|\\\\\.\\(?:physicaldrive|[a-z]:))/i;
const SOCKET = /^\/dev\/(?:tcp|udp)\//;
const SYSTEM =
  /^(?:\/(?:etc|usr|bin|sbin|lib\d*|boot|sys|proc|var|root|opt|System|Library|private\/etc)(?:\/|$)|[a-z]:[\\/](?:windows|program files)|\$env:(?:windir|systemroot)|%(?:windir|systemroot)%)/i;
// /var/tmp and the like are nobody's system.
const TEMPORARY = /^\/(?:tmp|var\/tmp|var\/folders|usr\/local\/(?:src|share\/doc))(?:\/|$)/;
const STARTUP =
  /(?:^|[\\/])(?:\.(?:bashrc|bash_profile|bash_login|bash_logout|profile|zshrc|zshenv|zprofile|zlogin|kshrc|cshrc|inputrc|xinitrc|xprofile)|authorized_keys|config\.fish|\.git[\\/]hooks[\\/][^\\/]+|crontab|sudoers|\.ssh[\\/]config|\.config[\\/]autostart[\\/][^\\/]+|launch(?:agents|daemons)[\\/][^\\/]+|start menu[\\/]programs[\\/]startup[\\/][^\\/]+)$|^\$profile$/i;
const SECRET =
  /(?:^|[\\/@=:'"\s])(?:id_(?:rsa|dsa|ecdsa|ed25519)(?!\.pub)|\.aws[\\/]credentials|\.netrc|_netrc|\.pgpass|\.git-credentials|\.npmrc|\.pypirc|\.vault-token|\.kube[\\/]config|\.docker[\\/]config\.json|\.env(?:\.[\w-]+)?(?=$|['"\s;|)])|shadow(?=$|['"\s])|\.gnupg|\.password-store|login\.keychain[\w-]*|key3\.db|key4\.db|logins\.json|application_default_credentials\.json|credentials\.json|secrets?\.(?:ya?ml|json|toml)|[\w.-]{1,80}\.(?:pem|p12|pfx|kdbx))|\.ssh(?:[\\/](?!config|known_hosts|[\w-]{1,60}\.pub)|\s|$)/i;
const SECRET_NAME =
  /\$(?:env:)?\{?(?:[A-Z0-9_]{0,60}(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIALS?)[A-Z0-9_]{0,60})\b|%[A-Z0-9_]{0,60}(?:TOKEN|SECRET|PASSWORD|API_?KEY)[A-Z0-9_]{0,60}%/i;
const TELLERS =
  /^(?:security find-\S+-password|gh auth token|gcloud auth print-\S+|aws configure get|op (?:read|item get)|pass show|vault (?:read|kv get)|kubectl get secrets?|git credential fill|keyring get)\b/;

/** What writing there means. `append`: what is there is kept. */
export function writingTo(target: Word, append = false): Verdict {
  const path = target.text;
  if (NOWHERE.test(path)) return SAFE;
  if (DEVICE.test(path)) return dangerous(`writes over the device ${short(path)}`);
  if (SOCKET.test(path)) return dangerous(`opens a connection to ${short(path.slice(9))}`);
  if (STARTUP.test(path)) return dangerous(`changes ${short(path)}, which is read or run by itself later`);
  if (SYSTEM.test(path) && !TEMPORARY.test(path)) return dangerous(`writes to the system file ${short(path)}`);
  if (target.dynamic && /^\$/.test(path) && !/[\\/]/.test(path))
    return changes("writes to a file whose name is only known when it runs");
  return changes(append ? `appends to ${short(path)}` : `writes ${short(path)}, over what is there`);
}

/** Whether a deletion at this place would take everything with it: the root, the home, the folder, a device. */
export function isEverything(path: string): boolean {
  return /^(?:\/|~\/?|\/\*|~\/\*|\.\/?|\.\.\/?|\*|\.\/\*|\.\*|\$\{?HOME\}?\/?\*?|\$env:userprofile\\?|%userprofile%\\?|[a-z]:[\\/]?\*?|\/(?:home|users|etc|usr|var|bin|lib|opt|boot|root)\/?\*?)$/i.test(
    path,
  );
}

/** The first secret that a text names: a file, a variable, a command that tells one. */
export function secretIn(text: string): string | undefined {
  const found = SECRET.exec(text) ?? SECRET_NAME.exec(text);
  if (found !== null) return short(around(text, found.index, found[0].length));
  const teller = TELLERS.exec(text);
  return teller === null ? undefined : short(teller[0]);
}

/** At most 60 characters of it, for a sentence. */
export function short(text: string): string {
  return text.length <= 60 ? text : `${text.slice(0, 40)}…${text.slice(-16)}`;
}

// The whole word in which a match lies.
function around(text: string, at: number, length: number): string {
  let from = at;
  let to = at + length;
  while (from > 0 && at - from < 40 && !/[\s'"@=]/.test(text[from - 1] ?? " ")) from--;
  while (to < text.length && to - at < 60 && !/[\s'"`;|)]/.test(text[to] ?? " ")) to++;
  return text
    .slice(from, to)
    .replace(/^[\s'"@=:]+/, "")
    .trim();
}
