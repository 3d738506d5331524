package standin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// becomeTcpdump makes the process the tcpdump that comes next in PATH.
//
// Debian's and Ubuntu's build becomes the user tcpdump once its socket is
// open (tcpdump.c, droproot). In the user namespace of an ordinary user's lab
// there is no such user, and tcpdump gives up: "Couldn't change to 'tcpdump'".
// There is nothing to drop either, since the lab's root is that ordinary user
// already; so there those calls are answered "done" and do nothing.
func becomeTcpdump(args []string) error {
	program, err := nextInPath("tcpdump")
	if err != nil {
		return errExit{err, 127}
	}
	runtime.LockOSThread() // the filter is the thread's, and the thread becomes the program
	if oneUser() {
		if err := ignoreUserChanges(); err != nil {
			return fmt.Errorf("prepare to run without other users: %w", err)
		}
	}
	return fmt.Errorf("exec %s: %w", program, syscall.Exec(program, args, os.Environ()))
}

// nextInPath finds the program of that name that is not this one.
func nextInPath(name string) (string, error) {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, name)
		st, err := os.Stat(path)
		if err != nil || st.IsDir() || st.Mode()&0o111 == 0 || os.SameFile(st, self) {
			continue
		}
		return path, nil
	}
	return "", fmt.Errorf("no %s is installed on this machine (sudo apt-get install %s)", name, name)
}

// oneUser reports whether the user namespace has one user only.
func oneUser() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	users := 0
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return false
		}
		n, err := strconv.Atoi(f[2])
		if err != nil {
			return false
		}
		users += n
	}
	return users == 1
}

// auditArch is the kernel's number of the architectures on which the system
// calls below have one form each.
var auditArch = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64,
	"arm64": unix.AUDIT_ARCH_AARCH64,
}

// ignoreUserChanges has the kernel answer the calling thread's attempts to
// change its user and groups with success, without doing it (seccomp(2)).
func ignoreUserChanges() error {
	arch, ok := auditArch[runtime.GOARCH]
	if !ok {
		return nil
	}
	calls := []uint32{unix.SYS_SETGROUPS, unix.SYS_SETGID, unix.SYS_SETUID, unix.SYS_SETRESGID, unix.SYS_SETRESUID}
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	equal := func(k uint32, then, otherwise int) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: k, Jt: uint8(then), Jf: uint8(otherwise)}
	}
	answer := func(k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}
	}
	// struct seccomp_data begins with the call's number and the architecture.
	filter := []unix.SockFilter{load(4), equal(arch, 0, len(calls)+1), load(0)}
	for i, nr := range calls {
		filter = append(filter, equal(nr, len(calls)-i, 0))
	}
	filter = append(filter, answer(unix.SECCOMP_RET_ALLOW), answer(unix.SECCOMP_RET_ERRNO))
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)))
	if errno == unix.EACCES { // without CAP_SYS_ADMIN
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		_, _, errno = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)))
	}
	if errno != 0 && !errors.Is(errno, unix.EINVAL) { // EINVAL: a kernel without seccomp
		return errno
	}
	return nil
}
