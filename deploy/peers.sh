#!/bin/bash
# Check that the programs the end-to-end tests run are there, and install what is missing;
# with the word `long` also those that only the long ones run.
# Apt is used only as root or where `sudo -n` works; else the command to type is printed.
set -euo pipefail

declare -A package=(
  [ffmpeg]=ffmpeg [ffprobe]=ffmpeg [chromium]=chromium
  [gst-launch-1.0]=gstreamer1.0-tools [gst-inspect-1.0]=gstreamer1.0-tools
  [promtool]=prometheus [nginx]=nginx-light [consul]=consul
  [ip]=iproute2 [nsenter]=util-linux [gcc]=gcc [openssl]=openssl [systemd-analyze]=systemd
  [apache2]=apache2 [lighttpd]=lighttpd [haproxy]=haproxy [prometheus]=prometheus
)
if [ "${1:-}" = long ]; then
  package+=([systemd-nspawn]=systemd-container [mmdebstrap]=mmdebstrap [ssh]=openssh-client)
fi
# One element for each set of GStreamer plug-ins.
declare -A element=(
  [videotestsrc]=gstreamer1.0-plugins-base [flvmux]=gstreamer1.0-plugins-good
  [rtmp2sink]=gstreamer1.0-plugins-bad [x264enc]=gstreamer1.0-plugins-ugly
  [avenc_aac]=gstreamer1.0-libav
)

PATH="$PATH:/usr/sbin:/sbin"

missing() {
  local name
  [ -e /usr/include/openssl/ssl.h ] || echo libssl-dev
  [ -e /usr/lib/nginx/modules/ngx_rtmp_module.so ] || echo libnginx-mod-rtmp
  echo '#include <stdio.h>' | gcc -E - >/dev/null 2>&1 || echo libc6-dev
  for name in "${!package[@]}"; do
    command -v "$name" >/dev/null || echo "${package[$name]}"
  done
  # A module of lighttpd that is a package of its own.
  [ -e /usr/lib/lighttpd/mod_openssl.so ] || echo lighttpd-mod-openssl
  for name in "${!element[@]}"; do
    gst-inspect-1.0 --exists "$name" 2>/dev/null || echo "${element[$name]}"
  done
}

look() {
  local found
  found=$(missing | sort -u)
  # shellcheck disable=SC2206 # names of packages are words
  needed=($found)
}

look
if [ "${#needed[@]}" -eq 0 ]; then exit 0; fi

if ! command -v apt-get >/dev/null; then
  echo "programs for the end-to-end tests are missing, and there is no apt: ${needed[*]}" >&2
  exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
  root=()
elif sudo -n true 2>/dev/null; then
  root=(sudo -n)
else
  # Not `sudo apt-get install`: that would also start nginx and Prometheus on this machine.
  self="$(printf '%q' "$(realpath "$0")")${1:+ $1}"
  as_root="su -c $(printf '%q' "$self")"
  if command -v sudo >/dev/null; then as_root="sudo $self"; fi
  printf '%s\n' "programs for the end-to-end tests are missing: ${needed[*]}" \
    "Debian has them; install them, without starting their services, with:" "  $as_root" >&2
  exit 1
fi

# Packages start their services when installed; the tests want the programs alone.
policy=/usr/sbin/policy-rc.d
placed=no
foreign=
restore() {
  if [ "$placed" = yes ]; then "${root[@]}" rm -f "$policy"; fi
  if [ -n "$foreign" ]; then rm -rf "$foreign"; fi
}
trap restore EXIT
if [ ! -e "$policy" ]; then
  placed=yes
  printf '#!/bin/sh\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
  "${root[@]}" chmod 755 "$policy"
fi

# A machine that was just started may be busy with its own updates.
apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
# Almost all the time goes into syncing single files, which a machine that only lives for one run
# of the tests need not do.
if [ -n "${CI:-}" ]; then apt+=(-o DPkg::Options::=--force-unsafe-io); fi
echo "installing: ${needed[*]}"
"${apt[@]}" update --quiet --quiet

# Consul left Debian after bullseye. Its package comes from there, out of the machine's own mirror:
# one file, whose hash the signed index vouches for. The index is read from a folder of our own, so
# no foreign suite enters the machine's sources, and nothing else can come from it.
consul_of_bullseye() {
  local mirror keys=/usr/share/keyrings/debian-archive-keyring.gpg
  mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME)' \
    'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | awk 'NR == 1 {print $1}')
  if [ -z "$mirror" ] || [ ! -e "$keys" ]; then
    echo "no Debian mirror in apt's sources: install Consul 1.8 or later by hand" >&2
    return 1
  fi
  foreign=$(mktemp -d)
  chmod 755 "$foreign"
  mkdir -p "$foreign/lists/partial" "$foreign/cache/archives/partial"
  echo "deb [signed-by=$keys] $mirror bullseye main" >"$foreign/sources.list"
  # Unsigned is refused, whatever the machine's configuration says.
  local there=(-o "Dir::Etc::SourceList=$foreign/sources.list" -o Dir::Etc::SourceParts=-
    -o "Dir::State::Lists=$foreign/lists" -o "Dir::Cache=$foreign/cache"
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o APT::Get::AllowUnauthenticated=false
    -o Acquire::AllowInsecureRepositories=false -o Acquire::AllowWeakRepositories=false)
  apt-get "${there[@]}" update --quiet --quiet
  (cd "$foreign" && apt-get "${there[@]}" download --quiet --quiet 'consul=1.8.7*')
}

wanted=()
for name in "${needed[@]}"; do
  if [ "$name" = consul ] && [ -z "$(apt-cache madison consul)" ]; then
    consul_of_bullseye
    wanted+=("$foreign"/consul_*.deb)
  else
    wanted+=("$name")
  fi
done
"${apt[@]}" install --quiet --yes --no-install-recommends "${wanted[@]}"

# Nor at the next boot. Who had the package before keeps its service as it was.
for name in nginx prometheus consul apache2 lighttpd haproxy; do
  case " ${needed[*]} " in *" $name"*) "${root[@]}" update-rc.d "$name" disable ;; esac
done

look
if [ "${#needed[@]}" -ne 0 ]; then
  echo "still missing after the installation: ${needed[*]}" >&2
  exit 1
fi
