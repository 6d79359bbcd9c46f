#!/usr/bin/env bash
# Switches this machine off after so many minutes, whatever becomes of the network, the launcher and
# SkyPilot.
#
#   limit.sh set MINUTES     from now on; takes the place of an earlier limit
#   limit.sh lower MINUTES   the same, unless the machine goes earlier anyway
#   limit.sh by SECONDS      at so many seconds after 1970, unless it goes earlier anyway
#
# With systemd it is a timer on disk, which a reboot does not lose; else a process of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=sky/node.sh
. sky/node.sh

how=${1:?set, lower or by}
number=${2:?how many minutes, or which second}
deadline=$NODE/limit # unix seconds
armed=$NODE/armed    # the same, where something waits for it
sleeper=$NODE/limit.pid
units=${STILLHOUSE_UNITS:-/etc/systemd/system}

arm_with_systemd() {
  systemctl show --property=Version >/dev/null 2>&1 || return 1
  as_root tee "$units/stillhouse-limit.service" >/dev/null <<EOF || return 1
[Unit]
Description=Switch this rented machine off

[Service]
Type=oneshot
ExecStart=$(command -v systemctl) poweroff --force
EOF
  # Persistent: a time that passed while the machine was down counts when it is up again.
  as_root tee "$units/stillhouse-limit.timer" >/dev/null <<EOF || return 1
[Unit]
Description=The limit of a stillhouse run

[Timer]
OnCalendar=$(date -u -d "@$1" '+%Y-%m-%d %H:%M:%S UTC')
Persistent=true
AccuracySec=1s

[Install]
WantedBy=timers.target
EOF
  as_root systemctl daemon-reload &&
    as_root systemctl enable stillhouse-limit.timer &&
    as_root systemctl restart stillhouse-limit.timer
}

# A process that belongs to nobody's session and looks at the deadline again and again, so that a
# new limit only has to be written down. Nobody's child either, at once: SkyPilot ends what it saw
# below a setup once a second when that has ended.
arm_with_a_process() {
  command -v poweroff >/dev/null || command -v shutdown >/dev/null || return 1
  as_root true 2>/dev/null || return 1
  if [ -f "$sleeper" ] && grep -qs limit.sh "/proc/$(cat "$sleeper")/cmdline"; then return 0; fi
  rm -f "$sleeper"
  (setsid bash sky/limit.sh wait 0 </dev/null >"$NODE/limit.log" 2>&1 &)
  # Only then it is on its own, whatever becomes of this session.
  for _ in $(seq 100); do
    [ ! -s "$sleeper" ] || return 0
    sleep 0.1
  done
  return 1
}

wait_and_switch_off() {
  echo $$ >"$sleeper"
  while [ "$(date +%s)" -lt "$(cat "$deadline")" ]; do sleep 1; done
  switch_off
}

switch_off() {
  say "the limit is reached: switching off"
  as_root poweroff -f || as_root shutdown -P now
}

case $how in
  wait)
    wait_and_switch_off
    exit
    ;;
  set | lower | by) ;;
  *)
    say "limit.sh: $how is neither set nor lower nor by"
    exit 2
    ;;
esac
case $number in
  '' | *[!0-9]*)
    say "limit.sh: $number is no number of minutes or seconds"
    exit 2
    ;;
esac

now=$(date +%s)
at=$number
[ "$how" = by ] || at=$((now + number * 60))
# A timer for a moment that has passed is one that systemd never comes to.
if [ "$at" -le "$now" ] && switch_off; then exit 0; fi
if [ "$how" != set ] && [ -f "$deadline" ]; then
  earlier=$(cat "$deadline")
  if [ "$earlier" -gt "$now" ] && [ "$earlier" -le "$at" ]; then exit 0; fi
fi
echo "$at" >"$deadline.new"
mv "$deadline.new" "$deadline"
echo "$at" >"$armed"
if arm_with_systemd "$at"; then
  say "a systemd timer switches this machine off at $(date -u -d "@$at" '+%H:%M:%S UTC')"
elif arm_with_a_process; then
  say "a process switches this machine off at $(date -u -d "@$at" '+%H:%M:%S UTC')"
else
  rm -f "$armed"
  say "WARNING: this machine cannot switch itself off; only SkyPilot and the launcher can end it"
fi
