#!/bin/sh
# The readings of Roundsman as the forced command of a key, in the file authorized_keys of its user:
#   restrict,command="/usr/local/lib/roundsman/readings" ssh-ed25519 AAAA...
# It answers the shell probe and refuses everything else. Nothing that the client sends is run: of its command only the
# word that marks the start is taken, of its script only the word that marks the answers, both checked letter by letter.
# What runs stands below. Made by Roundsman from its probe; see docs/least-privilege.md.
refuse() { echo "roundsman: this key may only take readings" >&2; exit 126; }
o=${SSH_ORIGINAL_COMMAND-} k=''
[ ${#o} -le 400 ] || refuse
while [ "$o" ]; do
  c=${o%"${o#?}"} o=${o#?}
  case $c in "'"|'"'|\\) ;; *) k=$k$c ;; esac
done
case $k in
  'exec /bin/sh '*'echo R'*' $$
exec /bin/sh') ;;
  *) refuse ;;
esac
m=${k##*echo R} m=${m%% *}
case $m in ''|*[!0-9a-f]*) refuse ;; esac
echo "R$m $$"
NONCE=''
while IFS= read -r l; do
  case $l in n=*) NONCE=${l#n=} ;; 'main; exit 0') break ;; esac
done
case $NONCE in ''|*[!0-9a-f]*) refuse ;; esac
