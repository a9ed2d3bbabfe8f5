export CLONE_STATE_DIR=/tmp/st CLONE_RUN_DIR=/tmp/run; rm -rf /tmp/run; mkdir -p /tmp/st; ln -sfn $PWD/build/state/images /tmp/st/images; C=build/release/clone
time $C run -d --name a --image bb --memory 128M
$C exec a -- sh -c "ip a; ip r; ip -6 r; cat /etc/resolv.conf; ping -c 2 10.77.0.1"
$C network ls; $C network inspect default
ping -c 2 $($C inspect a | grep '"ipv4"' | head -1 | cut -d'"' -f4 | cut -d/ -f1)
time $C fork a --name kid
$C exec kid -- sh -c "ip a; ip r; ip -6 r"
for v in a kid; do ip=$($C inspect $v | grep '"ipv4"' | head -1 | cut -d'"' -f4 | cut -d/ -f1); ping -c 2 $ip; ip6=$($C inspect $v | grep '"ipv6"' | head -1 | cut -d'"' -f4 | cut -d/ -f1); ping -c 2 $ip6; done
nft list ruleset | head -100
$C rm -f a kid; $C ls; ip -br l; nft list ruleset
