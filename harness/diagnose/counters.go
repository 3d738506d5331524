package diagnose

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// telling are the kernel's counters of packets that it dropped for a reason,
// each with the causes that it speaks for. Those of pods are the counters of
// the probes' ends. A name is that of nstat(8) with a space behind the
// protocol; what begins with "dev" is of every interface (/proc/net/dev).
func telling() map[string][]string {
	lost := []string{"fdb-missing", "fdb-wrong", "link-down", "link-mtu", "vxlan-local", "drop", "walk"}
	large := []string{"link-mtu", "route-wrong", "filter-size", "drop", "walk"}
	routes := []string{"route-missing", "route-wrong", "link-down", "link-missing", "address-missing", "policy", "vxlan-local"}
	off := []string{"forwarding", "forwarding-device", "reverse-path", "policy"}
	return map[string][]string{
		"Icmp InCsumErrors":          {"checksum"},
		"Tcp InCsumErrors":           {"checksum"},
		"Udp InCsumErrors":           {"checksum"},
		"Icmp6 InCsumErrors":         {"checksum"},
		"TcpExt IPReversePathFilter": {"reverse-path"},
		"Ip InAddrErrors":            off,
		"Ip OutNoRoutes":             routes,
		"Ip FragFails":               large,
		"Ip6 InAddrErrors":           off,
		"Ip6 InNoRoutes":             routes,
		"Ip6 OutNoRoutes":            routes,
		"Ip6 InTooBigErrors":         large,
		"Udp NoPorts":                {"vxlan-dstport", "vxlan-id", "link-missing", "wireguard-device"},
		"Udp6 NoPorts":               {"vxlan-dstport", "vxlan-id", "link-missing"},
		"dev tx_dropped":             lost,
		"dev tx_errors":              lost,
		"dev tx_carrier":             lost,
		"dev rx_dropped":             append(lost, "link-master"),
	}
}

// counters reads those of every node and pod.
func (l *looker) counters(ctx context.Context) map[string]map[string]int {
	out := map[string]map[string]int{}
	known := telling()
	var mu sync.Mutex
	wg := newGroup()
	for _, name := range spaces(l.out) {
		wg.Go(func() {
			t := tally{known, map[string]int{}}
			s, err := l.open.Session(ctx, name)
			for _, table := range []struct {
				file string
				read func(string)
			}{
				{"snmp", t.protocols}, {"netstat", t.protocols}, {"snmp6", t.protocols6}, {"dev", t.devices},
			} {
				var text []byte
				if err == nil && (table.file != "snmp6" || l.plan.Network.EnableIPv6) {
					text, err = s.ReadFile(ctx, "/proc/thread-self/net/"+table.file)
				}
				table.read(string(text))
			}
			if err != nil {
				l.unread("counters of %s: %v", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			out[name] = t.values
		})
	}
	wg.Wait()
	return out
}

// tally is the counters of a namespace that tell something.
type tally struct {
	known  map[string][]string
	values map[string]int
}

// note keeps a counter under its name, and one of an interface under that of the
// interface, if its sort is known.
func (t tally) note(sort, name, value string) {
	if n, err := strconv.Atoi(value); err == nil && t.known[sort] != nil {
		t.values[name] = n
	}
}

// protocols reads the format of /proc/net/snmp: a line of names and a line
// of values, both after the same title.
func (t tally) protocols(text string) {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := 1; j < min(len(names), len(values)); j++ {
			name := strings.TrimSuffix(names[0], ":") + " " + names[j]
			t.note(name, name, values[j])
		}
	}
}

// protocols6 reads that of /proc/net/snmp6: a name and a value a line, the
// protocol up to its 6.
func (t tally) protocols6(text string) {
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) == 2 {
			protocol, name, _ := strings.Cut(words[0], "6")
			name = protocol + "6 " + name
			t.note(name, name, words[1])
		}
	}
}

// devices reads that of /proc/net/dev: after two lines of titles, a line an
// interface, eight counters of what it received and eight of what it sent.
func (t tally) devices(text string) {
	names := []string{
		"rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "rx_fifo", "rx_frame", "rx_compressed", "multicast",
		"tx_bytes", "tx_packets", "tx_errors", "tx_dropped", "tx_fifo", "collisions", "tx_carrier", "tx_compressed",
	}
	for line := range strings.Lines(text) {
		dev, rest, is := strings.Cut(strings.TrimSpace(line), ":")
		values := strings.Fields(rest)
		if !is || len(values) != len(names) {
			continue
		}
		for i, name := range names {
			t.note("dev "+name, dev+" "+name, values[i])
		}
	}
}

// grown notes what grew.
func (l *looker) grown(before, after map[string]map[string]int) {
	for name, values := range after {
		for key, n := range values {
			if n > before[name][key] {
				if l.out.Grown[name] == nil {
					l.out.Grown[name] = map[string]int{}
				}
				l.out.Grown[name][key] = n - before[name][key]
			}
		}
	}
}

// counted adds to the causes what counters say for them: to the likeliest of a
// namespace that a counter speaks for, and of an interface's counter, to those
// of that interface. Counters grow in sound labs too, so that one alone is no
// cause.
func counted(seen *Seen, causes []Cause) {
	if len(seen.Symptoms) == 0 {
		return
	}
	known := telling()
	for _, space := range spaces(seen) {
		for _, key := range sortedKeys(seen.Grown[space]) {
			of, name, _ := strings.Cut(key, " ")
			ids, dev := known[key], ""
			if ids == nil {
				ids, dev = known["dev "+name], of
			}
			i := slices.IndexFunc(causes, func(c Cause) bool {
				return c.Space == space && slices.Contains(ids, c.ID) && (dev == "" || c.dev == dev)
			})
			if i >= 0 && !slices.ContainsFunc(causes[i].Evidence, func(e string) bool { return strings.Contains(e, name+" grew") }) {
				causes[i].Evidence = append(causes[i].Evidence, grew(space, of, name, dev, seen.Grown[space][key]))
			}
		}
	}
}

// grew is a counter in words.
func grew(space, of, name, dev string, by int) string {
	if dev != "" {
		return fmt.Sprintf("ip -s link on %s: %s of %s grew by %d while the probes ran", space, name, dev, by)
	}
	return fmt.Sprintf("nstat on %s: %s%s grew by %d while the probes ran", space, strings.TrimSuffix(of, "TcpExt"), name, by)
}
