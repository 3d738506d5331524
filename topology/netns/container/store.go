package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// storeTimeout is how long a containerd that runs may take to answer.
const storeTimeout = 5 * time.Second

// Store is a containerd of this machine that images are read from. Nothing of
// it is changed.
type Store struct {
	client             *containerd.Client
	folder             int
	address, namespace string
}

// OpenStore connects to the containerd at the socket's path, for the images of
// one of its namespaces. The connection lasts where the path is hidden later.
func OpenStore(address, namespace string) (*Store, error) {
	s := &Store{address: address, namespace: namespace}
	var err error
	if s.folder, err = unix.Open(filepath.Dir(address), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open the folder of containerd's socket %s: %w", address, err)
	}
	socket := fmt.Sprintf("/proc/self/fd/%d/%s", s.folder, filepath.Base(address))
	conn, err := grpc.NewClient("passthrough:///containerd",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to containerd at %s: %w", address, err), unix.Close(s.folder))
	}
	if s.client, err = containerd.NewWithConn(conn, containerd.WithDefaultNamespace(namespace)); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to containerd at %s: %w", address, err), conn.Close(), unix.Close(s.folder))
	}
	return s, nil
}

// Check says why an image cannot be had.
func (s *Store) Check(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, s.namespace), storeTimeout)
	defer cancel()
	_, err := s.client.GetImage(ctx, name)
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("containerd at %s has no image %s in its namespace %s: pull it there, or name another namespace with --containerd-namespace", s.address, name, s.namespace)
	}
	if err != nil {
		return fmt.Errorf("ask containerd at %s for image %s: %w", s.address, name, err)
	}
	return nil
}

// Export writes an image, as it is for this machine, as an archive.
func (s *Store) Export(ctx context.Context, name string, w io.Writer) error {
	ctx = namespaces.WithNamespace(ctx, s.namespace)
	err := s.client.Export(ctx, w, archive.WithImage(s.client.ImageService(), name), archive.WithPlatform(platforms.Default()))
	if err != nil {
		return fmt.Errorf("read image %s from containerd at %s: %w", name, s.address, err)
	}
	return nil
}

// Close ends the connection.
func (s *Store) Close() error { return errors.Join(s.client.Close(), unix.Close(s.folder)) }
