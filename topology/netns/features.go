package netns

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
	"github.com/overlab/overlab/internal/tuntap"
)

// Feature is one thing that labs use of this machine.
type Feature struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Needed marks a feature without which no lab comes up; the others are
	// tools that a person or an article's commands want.
	Needed bool `json:"needed"`
	// Detail says what was found, Mend the command that mends it.
	Detail string `json:"detail,omitempty"`
	Mend   string `json:"mend,omitempty"`
}

// userNamespaceLimits reads the settings that keep an ordinary user from
// making a user namespace.
func userNamespaceLimits() []Feature {
	if os.Geteuid() == 0 {
		return []Feature{{Name: "user namespaces", OK: true, Detail: "not needed by root"}}
	}
	limits := []struct{ file, bad, detail, mend string }{
		{"kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone is 0", "sudo sysctl kernel.unprivileged_userns_clone=1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor restricts user namespaces (Ubuntu's default)", "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
		{"user/max_user_namespaces", "0", "user.max_user_namespaces is 0", "sudo sysctl user.max_user_namespaces=10000"},
	}
	var out []Feature
	for _, l := range limits {
		b, err := os.ReadFile("/proc/sys/" + l.file)
		if err != nil {
			continue // a kernel without the setting does not limit
		}
		f := Feature{Name: strings.ReplaceAll(l.file, "/", "."), OK: true, Needed: true, Detail: "allows user namespaces"}
		if strings.TrimSpace(string(b)) == l.bad {
			f.OK, f.Detail, f.Mend = false, l.detail, l.mend
		}
		out = append(out, f)
	}
	return out
}

// Features probes what this machine offers. probe is the command of a helper
// process that calls ProbeFeatures inside namespaces like a lab's.
func Features(probe []string) []Feature {
	out := userNamespaceLimits()
	out = append(out, kernelFeatures(probe)...)
	out = append(out, tunDevices())
	for _, t := range []struct{ tool, pkg, why string }{
		{"ip", "iproute2", "the articles' ip addr, route, neigh"},
		{"bridge", "iproute2", "the articles' bridge fdb"},
		{"ping", "iputils-ping", "the articles' ping"},
		{"tcpdump", "tcpdump", "the articles' captures"},
		{"iptables", "iptables", "rules as flannel writes them; without it the agent uses nftables"},
		{"nft", "nftables", "nft list ruleset"},
		{"brctl", "bridge-utils", "the articles' brctl show"},
		{"ethtool", "ethtool", "the articles' ethtool -S"},
		{"netstat", "net-tools", "the articles' netstat and ifconfig"},
		{"tshark", "tshark", "reading the captures that overlab test keeps"},
		{"containerd", "containerd", "labs with runtime: containerd, which take root"},
		{"runc", "runc", "the same"},
	} {
		f := Feature{Name: t.tool, OK: true, Detail: t.why}
		if path, err := findIn(hostPath(), t.tool); err != nil {
			f.OK, f.Mend = false, "sudo apt-get install "+t.pkg
		} else {
			f.Detail = path
		}
		out = append(out, f)
	}
	return out
}

// tunDevices tells whether backends in userspace can be had.
func tunDevices() Feature {
	f := Feature{Name: "TUN devices", OK: true, Detail: "the backends in userspace: udp, and others where the kernel has none"}
	if err := tuntap.Usable(); err != nil {
		f.OK, f.Detail, f.Mend = false, err.Error(), "sudo modprobe tun; sudo chmod 666 "+tuntap.Path
	}
	return f
}

// kernelFeatures runs the helper and reads what it found.
func kernelFeatures(probe []string) []Feature {
	cmd := exec.Command(probe[0], probe[1:]...)
	cmd.SysProcAttr = isolate()
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	text, err := cmd.Output()
	if err != nil {
		return []Feature{{Name: "namespaces", Needed: true, Detail: explainClone(err).Error(), Mend: "see above"}}
	}
	out := []Feature{{Name: "namespaces", OK: true, Needed: true, Detail: "user, mount, PID, network and UTS namespaces can be made"}}
	for line := range strings.Lines(string(text)) {
		name, detail, failed := strings.Cut(strings.TrimSpace(line), "\t")
		f := Feature{Name: name, OK: !failed, Needed: true, Detail: "works"}
		if failed {
			detail, f.Mend, _ = strings.Cut(detail, "\t")
			f.Detail = detail
		}
		out = append(out, f)
	}
	return out
}

// ProbeFeatures tries, in the namespaces that it was started in, what a lab
// does there, and prints a line for each thing tried.
func ProbeFeatures() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	print := func(name string, err error, mend string) {
		if err != nil {
			fmt.Printf("%s\t%s\t%s\n", name, strings.ReplaceAll(err.Error(), "\n", " "), mend)
			return
		}
		fmt.Println(name)
	}
	print("mount /proc", unix.Mount("proc", "/proc", "proc", 0, ""), "in a container: --security-opt systempaths=unconfined")
	print("mount tmpfs", unix.Mount("probe", "/run", "tmpfs", 0, ""), "")
	print("mount /sys", unix.Mount("sysfs", "/sys", "sysfs", 0, ""), "in a container: --security-opt systempaths=unconfined")
	links, err := rtnl.Dial()
	if err != nil {
		return err
	}
	defer links.Close()
	for _, kind := range linkKinds("vxlan") {
		print("links of type "+kind.name, kind.try(links), "sudo modprobe "+kind.name)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	print("packet capture", err, "sudo modprobe af_packet")
	return nil
}
