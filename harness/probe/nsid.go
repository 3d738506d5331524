package probe

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NamespaceIDs returns the names of the other sessions' namespaces by the ids
// that this one has for them: a Link's PeerNS is one. The kernel gives an id
// only where something, as a veth, leads there.
func (s *Session) NamespaceIDs(ctx context.Context, others []*Session) (map[int]string, error) {
	ids := map[int]string{}
	for _, o := range others {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if s.state == nil || o.space == nil {
			return nil, fmt.Errorf("ask %s for its id of the namespace of %s: %w", s.name, o.name, ErrNotLocal)
		}
		id, err := s.state.namespaceID(o.space)
		if err != nil {
			return nil, fmt.Errorf("ask %s for its id of the namespace of %s: %w", s.name, o.name, err)
		}
		if id >= 0 {
			ids[id] = o.name
		}
	}
	return ids, nil
}

// namespaceID is negative where there is none.
func (d *dumper) namespaceID(space *os.File) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.h.GetNetNsIdByFd(int(space.Fd()))
}

// Inode is what the kernel knows the session's network namespace by.
func (s *Session) Inode() (uint32, error) {
	if s.space == nil {
		return 0, fmt.Errorf("find the inode of the namespace of %s: %w", s.name, ErrNotLocal)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(s.space.Fd()), &st); err != nil {
		return 0, fmt.Errorf("find the inode of the namespace of %s: %w", s.name, err)
	}
	return uint32(st.Ino), nil // the kernel's own are 32 bits wide
}
