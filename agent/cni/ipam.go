package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"
)

// podIP is one address of a pod.
type podIP struct {
	address netip.Prefix
	gateway netip.Addr
}

// ipam hands out addresses with the host-local plugin's allocator, from its
// files.
type ipam struct {
	conf  *allocator.IPAMConfig
	store store
}

// store is host-local's. In the legacy form a reservation holds the container
// alone, without a line break and the interface.
type store struct {
	*disk.Store
	dir    string
	legacy bool
}

// Reserve implements backend.Store.
func (s store) Reserve(id, ifname string, ip net.IP, rangeID string) (bool, error) {
	ok, err := s.Store.Reserve(id, ifname, ip, rangeID)
	if ok && err == nil && s.legacy {
		err = os.WriteFile(filepath.Join(s.dir, ip.String()), []byte(id), 0o600)
	}
	return ok, err
}

// ipamDir is the directory of a network's reservations.
func ipamDir(conf *allocator.IPAMConfig) string {
	return filepath.Join(or(conf.DataDir, DefaultIPAMDir), conf.Name)
}

// openIPAM opens a network's reservations, and makes their directory where it
// is not there yet.
func openIPAM(conf *allocator.IPAMConfig, legacy bool) (*ipam, error) {
	s, err := disk.New(conf.Name, conf.DataDir)
	if err != nil {
		return nil, err
	}
	return &ipam{conf, store{s, ipamDir(conf), legacy}}, nil
}

func (m *ipam) close() error { return m.store.Close() }

// reserve takes one address of each range for a container's interface: the
// one that is asked for, or else the next. The interface must have none yet.
// On error it has taken none.
func (m *ipam) reserve(id, ifname string, asked []net.IP) (ips []podIP, err error) {
	defer func() {
		if err != nil { // a Reserve that failed can have left its file
			err = errors.Join(err, m.release(id, ifname))
		}
	}()
	unused := make(map[string]net.IP)
	for _, ip := range asked {
		unused[ip.String()] = ip
	}
	for i, set := range m.conf.Ranges {
		var want net.IP
		for key, ip := range unused {
			if set.Contains(ip) {
				want = ip
				delete(unused, key)
				break
			}
		}
		got, err := allocator.NewIPAllocator(&set, m.store, i).Get(id, ifname, want)
		if err != nil {
			return ips, err
		}
		ips = append(ips, podIP{prefix(got.Address), addr(got.Gateway)})
	}
	for _, ip := range unused {
		return ips, fmt.Errorf("the requested address %s is in none of the node's ranges", ip)
	}
	return ips, nil
}

// release gives back the addresses of a container's interface.
func (m *ipam) release(id, ifname string) error {
	if err := m.store.Lock(); err != nil {
		return err
	}
	err := m.store.ReleaseByID(id, ifname)
	if err := errors.Join(err, m.store.Unlock()); err != nil {
		return err
	}
	// The store does not tell of a file that it could not remove.
	left, err := reservations(m.store.dir)
	if err != nil {
		return err
	}
	for _, r := range left {
		if r.of(id, ifname) {
			return fmt.Errorf("%s could not be removed", filepath.Join(m.store.dir, r.ip.String()))
		}
	}
	return nil
}

// reservation is one of host-local's files: an address, and who has it.
type reservation struct {
	ip netip.Addr
	id string
	// ifname is empty in the legacy form.
	ifname string
}

func (r reservation) of(id, ifname string) bool {
	return r.id == id && (r.ifname == ifname || r.ifname == "")
}

// reservations lists a network's; there are none where the directory is
// missing.
func reservations(dir string) ([]reservation, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rs []reservation
	for _, e := range entries {
		ip, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue // the lock, and the last address that was given
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		id, ifname, _ := strings.Cut(strings.TrimSpace(string(b)), disk.LineBreak)
		rs = append(rs, reservation{ip, id, ifname})
	}
	return rs, nil
}
