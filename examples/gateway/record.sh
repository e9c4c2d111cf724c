#!/bin/sh
# Records traffic.pcap: three network namespaces on this machine, nothing else is reached.
#
#   lan 192.168.10.0/24, fd00:10::/64  --veth--  gw  --veth--  wan 10.20.0.0/24, fd00:20::/64
#   (six clients)                      captured here           (DNS, web server)
#
# Needs root and: iproute2 ethtool tcpdump dnsmasq dnsutils nginx openssl curl iputils-ping
# netcat-openbsd (the Debian package names).   Usage: sudo sh record.sh [OUTPUT]
set -eu

out=${1:-traffic.pcap}
tmp=$(mktemp -d)
chmod 755 "$tmp"
lan="ip netns exec gwx-lan"
gw="ip netns exec gwx-gw"
wan="ip netns exec gwx-wan"
clients="192.168.10.11 192.168.10.12 192.168.10.13 192.168.10.14 192.168.10.15 192.168.10.16"
dns=10.20.0.53
web=10.20.0.80

cleanup() {
    for pidfile in "$tmp"/*.pid; do
        [ -f "$pidfile" ] && kill "$(cat "$pidfile")" 2>/dev/null || true
    done
    for ns in gwx-lan gwx-gw gwx-wan; do ip netns del $ns 2>/dev/null || true; done
    rm -rf "$tmp"
}
trap cleanup EXIT

# ---- three namespaces; the links have room for a tunnel header (MTU 1420, as WireGuard has) ----
link() { # namespace A, name A, MAC A, namespace B, name B, MAC B
    ip link add "$2" address "$3" netns "$1" type veth peer name "$5" address "$6" netns "$4"
    for side in "$1 $2" "$4 $5"; do
        set -- $side
        ip -n "$1" link set "$2" mtu 1420 up
        # Frames as on a wire: whole checksums, and no segmentation left to a network card.
        ip netns exec "$1" ethtool -K "$2" tx off rx off tso off gso off gro off >/dev/null
    done
}
for ns in gwx-lan gwx-gw gwx-wan; do
    ip netns add $ns
    ip -n $ns link set lo up
done
link gwx-lan lan0 02:00:00:00:10:02 gwx-gw gw0 02:00:00:00:10:01
link gwx-wan wan0 02:00:00:00:20:02 gwx-gw gw1 02:00:00:00:20:01
for a in $clients; do ip -n gwx-lan addr add "$a/24" dev lan0; done
ip -n gwx-lan addr add fd00:10::11/64 dev lan0 nodad
ip -n gwx-gw addr add 192.168.10.1/24 dev gw0
ip -n gwx-gw addr add fd00:10::1/64 dev gw0 nodad
ip -n gwx-gw addr add 10.20.0.1/24 dev gw1
ip -n gwx-gw addr add fd00:20::1/64 dev gw1 nodad
for a in $dns $web; do ip -n gwx-wan addr add "$a/24" dev wan0; done
ip -n gwx-wan addr add fd00:20::80/64 dev wan0 nodad
ip -n gwx-lan route add default via 192.168.10.1
ip -n gwx-lan -6 route add default via fd00:10::1
ip -n gwx-wan route add default via 10.20.0.1
ip -n gwx-wan -6 route add default via fd00:20::1
$gw sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1

# ---- servers ----
long=$(printf 'x%.0s' $(seq 200))
$wan dnsmasq --conf-file=/dev/null --no-resolv --no-hosts --user=root --bind-interfaces \
    --listen-address=$dns --pid-file="$tmp/dnsmasq.pid" --local=/#/ --log-facility=/dev/null \
    --address=/www.example.net/$web --address=/www.example.net/fd00:20::80 \
    --address=/shop.example.org/$web --address=/mail.example.com/10.20.0.25 \
    --mx-host=example.com,mail.example.com,10 \
    --txt-record=example.net,"v=spf1 mx -all" \
    --txt-record=long.example.net,"$long","$long","$long","$long","$long","$long","$long"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 \
    -keyout "$tmp/key.pem" -out "$tmp/cert.pem" -subj /CN=www.example.net \
    -addext subjectAltName=DNS:www.example.net,DNS:shop.example.org 2>/dev/null
mkdir "$tmp/www"
for kib in 1 4 16 48 100; do
    openssl rand -base64 $((kib * 768)) | head -c $((kib * 1024)) >"$tmp/www/$kib.txt"
done
echo '<!doctype html><title>Example</title><p>Hello.' >"$tmp/www/index.html"
cat >"$tmp/nginx.conf" <<CONF
pid $tmp/nginx.pid;
error_log /dev/null;
worker_processes 1;
events {}
http {
    access_log off;
    server_tokens off;
    default_type text/plain;
    root $tmp/www;
    ssl_certificate $tmp/cert.pem;
    ssl_certificate_key $tmp/key.pem;
    ssl_protocols TLSv1.3;
    server { listen 80; listen [::]:80; listen 443 ssl http2; listen [::]:443 ssl http2; }
}
CONF
$wan nginx -e /dev/null -c "$tmp/nginx.conf"
sleep 1

# ---- what the clients do ----
get() { # source address, URL path and host are the rest
    src=$1; shift
    $lan curl -s -m 10 -A example-client/1.0 --interface "$src" \
        --resolve "www.example.net:80:$web" --resolve "www.example.net:443:$web" \
        --resolve "shop.example.org:443:$web" --cacert "$tmp/cert.pem" "$@" >/dev/null || true
}
ask() { # source address, then dig's arguments
    src=$1; shift
    $lan dig +tries=1 +time=1 -b "$src" @$dns "$@" >/dev/null || true
}
client() { # one client's session
    a=$1
    for name in www.example.net shop.example.org mail.example.com missing.example.net; do
        for type in A AAAA A AAAA A HTTPS; do ask "$a" "$name" $type; done
        ask "$a" +noedns "$name" A
    done
    for i in 1 2 3 4 5 6; do get "$a" http://www.example.net/; done
    ask "$a" example.net TXT
    get "$a" http://www.example.net/4.txt http://www.example.net/16.txt
    ask "$a" long.example.net TXT +noedns           # truncated over UDP: dig asks again over TCP
    for i in 1 2 3; do get "$a" https://www.example.net/1.txt; done
    ask "$a" +tcp example.com MX
    get "$a" https://shop.example.org/16.txt https://shop.example.org/4.txt
    $lan ping -q -c 20 -i 0.05 -s 56 -I "$a" $web >/dev/null || true
    $lan ping -q -c 2 -i 0.05 -s 1392 -I "$a" $web >/dev/null || true
    $lan ping -q -c 2 -i 0.05 -s 3000 -I "$a" $web >/dev/null || true     # three fragments
    get "$a" http://www.example.net/missing.html
    get "$a" --data-binary "@$tmp/www/4.txt" http://www.example.net/
    for port in 23 25 3389; do $lan nc -z -w 1 -s "$a" $web $port || true; done
    for i in 1 2 3; do
        echo "M-SEARCH * HTTP/1.1" | $lan nc -u -q 0 -w 1 -s "$a" $web 1900 || true
    done
    get "$a" https://www.example.net/48.txt
}

$gw tcpdump -q -i gw0 --immediate-mode -s 0 -U -Z root -w "$tmp/traffic.pcap" 2>/dev/null &
echo $! >"$tmp/tcpdump.pid"
sleep 1
jobs=
for a in $clients; do
    client "$a" &
    jobs="$jobs $!"
    sleep 0.05
done
get fd00:10::11 -g "http://[fd00:20::80]/16.txt" "https://[fd00:20::80]/1.txt" -k
$lan ping -6 -q -c 6 -i 0.05 -s 56 fd00:20::80 >/dev/null || true
$lan ping -6 -q -c 2 -i 0.05 -s 2500 fd00:20::80 >/dev/null || true
get 192.168.10.12 http://www.example.net/100.txt
get 192.168.10.13 https://www.example.net/100.txt
wait $jobs
sleep 1
kill "$(cat "$tmp/tcpdump.pid")" && wait "$(cat "$tmp/tcpdump.pid")" || true
rm "$tmp/tcpdump.pid"
cp "$tmp/traffic.pcap" "$out"
