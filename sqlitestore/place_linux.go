package sqlitestore

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/idem-go/idem/driver"
)

// lowSpace is how little room on the disk is worth a word.
const lowSpace = 128 << 20

// place looks at the file system that a file is on.
func (c *checker) place(file string) {
	var st unix.Statfs_t
	if err := unix.Statfs(file, &st); err != nil {
		c.found(driver.SeverityUnknown, "file system", "not readable", "the file's system cannot be asked what it is, and what room it has", "see that it is a local disk")
		return
	}
	f := fileSystem(uint32(st.Type))
	f.Subject = "file system"
	c.findings = append(c.findings, f)
	room := float64(st.Bavail) * float64(st.Bsize)
	if found := fmt.Sprintf("%.0f MiB", room/(1<<20)); room < lowSpace {
		c.found(driver.SeverityWarning, "free space", found, "when the disk is full, claims are refused and results cannot be saved", "make room")
	} else {
		c.ok("free space", found)
	}
}

// fileSystem says what a file system is, by its number, and what that means.
func fileSystem(magic uint32) driver.Finding {
	network := func(name string) driver.Finding {
		return driver.Finding{
			Severity: driver.SeverityWarning, Found: name,
			Means:  "SQLite's locks do not hold on network file systems: processes on several hosts damage the database",
			Remedy: "put the file on a local disk",
		}
	}
	unsure := func(name string) driver.Finding {
		return driver.Finding{
			Severity: driver.SeverityUnknown, Found: name,
			Means: "whether locks and syncs hold depends on what is behind it", Remedy: "see that it is a local disk",
		}
	}
	switch magic {
	case unix.NFS_SUPER_MAGIC:
		return network("NFS")
	case unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC:
		return network("SMB")
	case unix.CEPH_SUPER_MAGIC:
		return network("Ceph")
	case unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC, unix.CODA_SUPER_MAGIC, unix.OCFS2_SUPER_MAGIC:
		return network("a network file system")
	case unix.V9FS_MAGIC:
		return unsure("9P")
	case unix.FUSE_SUPER_MAGIC:
		return unsure("FUSE")
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return driver.Finding{
			Severity: driver.SeverityWarning, Found: "in memory",
			Means: "nothing in the file outlives the host's next start", Remedy: "put the file on a disk",
		}
	}
	return driver.Finding{Found: "local"}
}
