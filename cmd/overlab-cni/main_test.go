package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	nft "github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/nstest"
)

// The test binary is the plugin too: a runtime starts it by a link that has
// the plugin's name, and with CNI_COMMAND set.
func TestMain(m *testing.M) {
	if os.Getenv("CNI_COMMAND") != "" {
		main()
		return
	}
	nstest.Main(m)
}

// conflist is the one of flannel's manifest, but for the plugin's type and
// where the files are.
const conflist = `{
  "name": "cbr0",
  "cniVersion": "%s",
  "plugins": [{
    "type": "overlab-cni",
    "capabilities": {"mac": true, "ips": true, "portMappings": true},
    "subnetFile": "%[2]s/subnet.env",
    "dataDir": "%[2]s/flannel",
    "ipam": {"dataDir": "%[2]s/networks"},
    "delegate": {"hairpinMode": true, "isDefaultGateway": true}
  }]
}`

const subnetEnv = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"

// setup makes a node, a pod's namespace and the folders of a runtime.
func setup(t testing.TB, version string) (node *netns.Set, cni *libcni.CNIConfig, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) {
	t.Helper()
	node = nstest.New(t)
	pod, err := netns.Create(unix.CLONE_NEWNET, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pod.Close() })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, dir := t.TempDir(), t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "overlab-cni")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "subnet.env"), []byte(subnetEnv), 0o644); err != nil {
		t.Fatal(err)
	}
	list, err = libcni.ConfListFromBytes(fmt.Appendf(nil, conflist, version, dir))
	if err != nil {
		t.Fatal(err)
	}
	return node, libcni.NewCNIConfigWithCacheDir([]string{bin}, t.TempDir(), nil), list, &libcni.RuntimeConf{
		ContainerID: "0dc487cc6e4f",
		NetNS:       fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), pod.Net),
		IfName:      "eth0",
		Args:        [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "ubuntu-1"}},
		CapabilityArgs: map[string]any{"mac": "4a:60:9c:0a:01:60", "ips": []string{"10.244.1.96/24"},
			"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}},
	}
}

func TestThroughARuntime(t *testing.T) {
	ctx := context.Background()
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			node, cni, list, rt := setup(t, version)
			err := node.Do(func() error {
				if _, err := cni.ValidateNetworkList(ctx, list); err != nil {
					return err
				}
				res, err := cni.AddNetworkList(ctx, list, rt)
				if err != nil {
					return err
				}
				r, err := types100.NewResultFromResult(res)
				if err != nil {
					return err
				}
				if r.IPs[0].Address.String() != "10.244.1.96/24" || r.Interfaces[2].Mac != "4a:60:9c:0a:01:60" {
					t.Errorf("result %v", r)
				}
				if version != "0.3.1" { // CHECK came with 0.4.0
					if err := cni.CheckNetworkList(ctx, list, rt); err != nil {
						return err
					}
				}
				br, err := netlink.LinkByName("cni0")
				if err != nil {
					return err
				}
				if err := netlink.LinkSetDown(br); err != nil {
					return err
				}
				if err := cni.CheckNetworkList(ctx, list, rt); err == nil || version != "0.3.1" && !strings.Contains(err.Error(), "cni0 on the node is down") {
					t.Errorf("CHECK with the bridge down: %v", err)
				}
				if version == "1.1.0" {
					var status *types.Error
					if err := cni.GetStatusNetworkList(ctx, list); !errors.As(err, &status) || status.Code != 51 {
						t.Errorf("STATUS with the bridge down: %v", err)
					}
					if err := netlink.LinkSetUp(br); err != nil {
						return err
					}
					if err := cni.GetStatusNetworkList(ctx, list); err != nil {
						return err
					}
					if err := cni.GCNetworkList(ctx, list, &libcni.GCArgs{}); err != nil {
						return err
					}
				}
				if err := cni.DelNetworkList(ctx, list, rt); err != nil {
					return err
				}
				rt.NetNS = ""
				if err := cni.DelNetworkList(ctx, list, rt); err != nil {
					return err
				}
				left, err := nft.New()
				if err != nil {
					return err
				}
				tables, err := left.ListTables()
				if len(tables) > 0 {
					t.Errorf("after DEL there is the table %s", tables[0].Name)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// A runtime reads the error from standard output, as JSON with a code.
func TestErrorsAreJSON(t *testing.T) {
	node, _, list, rt := setup(t, "1.0.0")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var conf map[string]any
	if err := json.Unmarshal(list.Plugins[0].Bytes, &conf); err != nil {
		t.Fatal(err)
	}
	conf["name"], conf["cniVersion"], conf["subnetFile"] = "cbr0", "1.0.0", "/run/none/subnet.env"
	stdin, err := json.Marshal(conf)
	if err != nil {
		t.Fatal(err)
	}
	err = node.Do(func() error {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "CNI_COMMAND=ADD", "CNI_CONTAINERID=x", "CNI_IFNAME=eth0", "CNI_PATH=/", "CNI_NETNS="+rt.NetNS)
		cmd.Stdin = strings.NewReader(string(stdin))
		out, err := cmd.Output()
		if err == nil {
			t.Error("ADD succeeded without a subnet file")
		}
		var e struct {
			Code uint   `json:"code"`
			Msg  string `json:"msg"`
		}
		if err := json.Unmarshal(out, &e); err != nil {
			return fmt.Errorf("standard output is %q: %w", out, err)
		}
		if e.Code != 11 || !strings.Contains(e.Msg, "/run/none/subnet.env") {
			t.Errorf("error %+v", e)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// BenchmarkExec measures an ADD and a DEL, each a process, as a runtime would
// start them.
func BenchmarkExec(b *testing.B) {
	node, cni, list, rt := setup(b, "1.0.0")
	ctx := context.Background()
	for b.Loop() {
		err := node.Do(func() error {
			if _, err := cni.AddNetworkList(ctx, list, rt); err != nil {
				return err
			}
			b.StopTimer()
			err := cni.DelNetworkList(ctx, list, rt)
			b.StartTimer()
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
