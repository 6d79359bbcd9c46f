#!/usr/bin/env bash
# Waits for the cloud to say that it takes this machine away, and then has the work saved. AWS says
# so two minutes before, GCP half a minute. Without an answer it goes on asking.
#
#   spot_notice.sh RUN_FOLDER    writes the notice to RUN_FOLDER/spot-notice.json
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=sky/node.sh
. sky/node.sh

folder=${1:?the folder of the run}
metadata=${STILLHOUSE_METADATA:-http://169.254.169.254}
every_s=${STILLHOUSE_NOTICE_EVERY_S:-5}

ask() { curl --silent --fail --max-time 2 "$@"; }

# Prints the notice and returns 0; 1: there is none; 2: no answer.
aws_notice() {
  local token code
  token=$(ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/latest/api/token") ||
    return 2
  code=0
  ask -H "X-aws-ec2-metadata-token: $token" "$metadata/latest/meta-data/spot/instance-action" ||
    code=$?
  case $code in
    0) return 0 ;;
    22) return 1 ;; # 404: nothing is planned
    *) return 2 ;;
  esac
}

gcp_notice() {
  local preempted
  preempted=$(ask -H 'Metadata-Flavor: Google' "$metadata/computeMetadata/v1/instance/preempted") ||
    return 2
  [ "$preempted" = TRUE ] || return 1
  echo '{"action": "preempted"}'
}

case ${STILLHOUSE_CLOUD:-} in
  aws | gcp) ;;
  *)
    say "${STILLHOUSE_CLOUD:-this cloud} gives no notice before it takes a machine away"
    exit 0
    ;;
esac
command -v curl >/dev/null || { say "no curl: the notice before this machine is taken is not seen"; exit 0; }

answered=yes
while true; do
  code=0
  notice=$("${STILLHOUSE_CLOUD}_notice") || code=$?
  if [ "$code" = 0 ]; then break; fi
  if [ "$code" = 2 ] && [ "$answered" = yes ]; then
    say "the cloud's metadata do not answer; asking again every $every_s s"
    answered=no
  elif [ "$code" = 1 ]; then
    answered=yes
  fi
  sleep "$every_s"
done
say "this machine will be taken away: $notice"
printf '%s\n' "$notice" >"$folder/spot-notice.json"
bash sky/save.sh
