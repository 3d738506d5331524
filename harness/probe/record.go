package probe

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
)

// A Notice is an entry that came or was altered, as the kernel told of it. One
// of its entries is set; their Dev is left out.
type Notice struct {
	// At is when the notice was read, soon after the entry came.
	At        time.Time
	Neighbour *Neighbour
	FDB       *FDBEntry
	Route     *Route
}

// A Recorder keeps what neighbours, forwarding entries and routes of IPv4 come
// to a namespace, in the order in which they do.
type Recorder struct {
	name string
	l    *rtnl.Listener
	done chan struct{}
	// reading is held while what has arrived is read.
	reading sync.Mutex
	notices []Notice
	err     error
}

// Record begins to record. The caller closes the recorder.
func (s *Session) Record() (*Recorder, error) {
	r := &Recorder{name: s.name, done: make(chan struct{})}
	err := s.local.Do(func() (err error) {
		r.l, err = rtnl.Listen(unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("record what the kernel in %s tells: %w", s.name, err)
	}
	go func() {
		defer close(r.done)
		for r.l.Wait() == nil {
			r.read()
		}
	}()
	return r, nil
}

// Close ends the recording.
func (r *Recorder) Close() error {
	err := r.l.Close()
	<-r.done
	return err
}

// Notices returns what the kernel has told so far. The error says that some of
// it was lost, and so what is in between is not known.
func (r *Recorder) Notices() ([]Notice, error) {
	r.read()
	r.reading.Lock()
	defer r.reading.Unlock()
	out := append([]Notice(nil), r.notices...)
	if r.err != nil {
		return out, fmt.Errorf("record in %s: %w", r.name, r.err)
	}
	return out, nil
}

func (r *Recorder) read() {
	r.reading.Lock()
	defer r.reading.Unlock()
	at := time.Now()
	err := r.l.Drain(func(m rtnl.Message) error {
		n, err := notice(m)
		if n != nil {
			n.At = at
			r.notices = append(r.notices, *n)
		}
		return err
	})
	r.err = errors.Join(r.err, err)
}

// notice reads a message; nil is one that tells of nothing that came.
func notice(m rtnl.Message) (*Notice, error) {
	switch m.Type {
	case unix.RTM_NEWNEIGH:
		n, err := m.Neigh()
		switch {
		case err != nil:
			return nil, err
		case n.Family == unix.AF_BRIDGE:
			return &Notice{FDB: &FDBEntry{
				MAC: mac(n.MAC), Dst: n.IP, Self: n.Flags&unix.NTF_SELF != 0, State: fdbState(int(n.State)),
			}}, nil
		case n.Family == unix.AF_INET:
			return &Notice{Neighbour: &Neighbour{IP: n.IP, MAC: mac(n.MAC), State: neighbourState(int(n.State))}}, nil
		}
	case unix.RTM_NEWROUTE:
		r, err := m.Route()
		if err != nil || r.Table != unix.RT_TABLE_MAIN {
			return nil, err
		}
		return &Notice{Route: &Route{Dst: r.Dst, Via: r.Via, Onlink: r.Onlink, Kind: routeKind(int(r.Type))}}, nil
	}
	return nil, nil
}
