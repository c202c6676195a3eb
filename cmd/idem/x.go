package idem

import _ "github.com/idem-go/idem/driver"
