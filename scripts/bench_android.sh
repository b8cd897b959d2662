#!/usr/bin/env bash
# An avatar's speed on an Android phone: the runtimes' own runners over adb, rows as in docs/benchmarks.csv.
#
#   scripts/bench_android.sh me.avatar --ort onnxruntime_perf_test --et executor_runner >> docs/benchmarks.csv
#
#   --ort FILE       ONNX Runtime's onnxruntime_perf_test, built for the phone (arm64-v8a)
#   --et FILE        ExecuTorch's executor_runner, built for the phone with the XNNPACK backend
#   --threads "1 4"  one row each (default: 1 and 4)
#   --minutes 30     length of the sustained run, on the last of the threads; 0 leaves it out (default: 30)
#   ANDROID_SERIAL   which phone, where several are connected
#
# Students are timed, without the driver (0.01 ms). Before each row the phone rests; a sustained row names the thermal
# status after it (0 none, 1 light, 2 moderate, 3 severe …, as `dumpsys thermalservice` says).
set -euo pipefail

usage() { sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0; }
fail() { echo "bench_android: $*" >&2; exit 2; }

bundle='' ort='' et='' threads='1 4' minutes=30 runs=100
rest=${REST_SECONDS:-20}
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage ;;
    --ort | --et | --threads | --minutes)
      [ $# -gt 1 ] || fail "$1 wants a value."
      declare "${1#--}=$2"; shift ;;
    -*) fail "there is no $1; --help lists what there is." ;;
    *) bundle=$1 ;;
  esac
  shift
done
[ -f "$bundle/manifest.json" ] || fail "'$bundle' is no avatar. Give the folder NAME.avatar."
[ -n "$ort$et" ] || fail "give --ort or --et: a runner that was built for the phone."
for runner in $ort $et; do [ -f "$runner" ] || fail "there is no runner $runner."; done
command -v adb > /dev/null || fail "adb is not on the path. It comes with Android's platform tools."
[ "$(adb get-state 2> /dev/null)" = device ] || fail "no phone answers. Connect one, allow debugging, and try again."

manifest() { python3 -c "import json, sys; m = json.load(open(sys.argv[1])); print($1)" "$bundle/manifest.json"; }
phone() { adb shell "$@" < /dev/null | tr -d '\r'; }

device="$(phone getprop ro.product.manufacturer) $(phone getprop ro.product.model) ($(phone getprop ro.board.platform))"
system="Android $(phone getprop ro.build.version.release)"
commit=$(git -C "$(dirname "$0")" rev-parse --short HEAD 2> /dev/null || echo unknown)
work=/data/local/tmp/superface
macs=$(manifest "format(m['gmacs'], '.3f')")
parameters=$(manifest "format(m['parameters'] / 1e6, '.3f')")
phone "mkdir -p $work"
for runner in $ort $et; do
  adb push "$runner" "$work/" > /dev/null
  phone "chmod 755 $work/$(basename "$runner")"
done

# measure RUNTIME FILE THREADS COUNT: prints "p50 p90 first peak_mb" in ms and MB; what a runner does not say stays empty
measure() {
  local said
  if [ "$1" = onnxruntime ]; then
    said=$(phone "cd $work && ./$(basename "$ort") -e cpu -m times -r $4 -x $3 -I -s $2 2>&1")
    awk '/^First inference time cost/ { first = $(NF - 1) } /^P50 Latency/ { p50 = $(NF - 1) * 1000 }
         /^P90 Latency/ { p90 = $(NF - 1) * 1000 } /^Peak working set size/ { sub(/.*: */, ""); peak = $1 / 1e6 }
         END { if (!p50) exit 1; printf "%.2f %.2f %.2f %.0f\n", p50, p90, first, peak }' <<< "$said" && return
  else
    # It says what all runs took together: ten starts of a tenth each give a median and a p90, and one run the first.
    said=$(phone "cd $work && for n in 1 \$(yes $((($4 + 9) / 10)) | head -n 10); do ./$(basename "$et") \
      --model_path=$2 --num_executions=\$n --cpu_threads=$3 --print_output=none 2>&1; done")
    sed -n 's/.*executed successfully \([0-9]*\) time(s) in \([0-9.]*\) ms.*/\1 \2/p' <<< "$said" |
      awk 'NR == 1 { first = $2 } NR > 1 { print $2 / $1 } END { print "first", first }' | sort -n |
      awk '$1 == "first" { first = $2; next } { ms[++n] = $1 }
           END { if (!n) exit 1; printf "%.2f %.2f %.2f \n", ms[int((n + 1) / 2)], ms[int(0.9 * n + 0.5)], first }' &&
      return
  fi
  fail "the runner said no times for $2: $(tail -n 1 <<< "$said")"
}

# row RUNTIME FILE PRECISION THREADS COUNT BACKEND
row() {
  local figures p50 p90 first peak size
  sleep "$rest"
  figures=$(measure "$1" "$(basename "$2")" "$4" "$5") || exit
  read -r p50 p90 first peak <<< "$figures"
  size=$(awk -v b="$(wc -c < "$bundle/$2")" 'BEGIN { printf "%.2f", b / 1e6 }')
  echo "$(date +%F),$commit,$device,$system,$1,$6,$3,512,$4,$macs,$parameters,$size,$p50,$p90,$first,$5,$peak,,,measured"
}

for runtime in onnxruntime executorch; do
  if [ $runtime = onnxruntime ]; then runner=$ort format=onnx; else runner=$et format=executorch; fi
  [ -n "$runner" ] || continue
  while read -r precision file; do
    adb push "$bundle/$file" "$work/" > /dev/null
    for count in $threads; do
      warm=$(row $runtime "$file" "$precision" "$count" $runs CPU)
      echo "$warm"
    done
    if [ "$minutes" -gt 0 ]; then
      many=$(awk -v ms="$(cut -d, -f13 <<< "$warm")" -v minutes="$minutes" 'BEGIN { printf "%d", minutes * 60000 / ms + 10 }')
      sustained=$(row $runtime "$file" "$precision" "$count" "$many" SUSTAINED)
      status=$(phone dumpsys thermalservice | sed -n 's/.*Thermal Status: *\([0-9]*\).*/\1/p' | head -n 1)
      echo "${sustained/SUSTAINED/CPU $minutes min sustained; thermal status ${status:-unknown}}"
    fi
  done < <(manifest "'\n'.join(' '.join(x) for x in m['graphs']['student']['files'].get('$format', {}).items())")
done
phone "rm -rf $work"
