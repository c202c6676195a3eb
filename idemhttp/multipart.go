package idemhttp

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"mime/multipart"
	"slices"
)

// multipartSum is a hash of a form's parts in their order. It reports false
// when the body is not whole, or is no such form.
func multipartSum(body []byte, boundary string) (sum [32]byte, ok bool) {
	form := multipart.NewReader(bytes.NewReader(body), boundary)
	all, content := sha256.New(), sha256.New()
	var scratch []byte
	for {
		// The raw part: decoding would make one of two that differ.
		part, err := form.NextRawPart()
		if err == io.EOF { //nolint:errorlint // a wrapped EOF is a form that was cut off
			all.Sum(sum[:0])
			return sum, true
		}
		if err != nil {
			return sum, false
		}
		scratch = appendPartHeader(scratch[:0], part)
		content.Reset()
		n, err := io.Copy(content, part)
		if err != nil {
			return sum, false
		}
		scratch = binary.AppendUvarint(scratch, uint64(n))
		scratch = content.Sum(scratch)
		_, _ = all.Write(scratch) // a hash never fails
	}
}

func appendPartHeader(b []byte, part *multipart.Part) []byte {
	names := make([]string, 0, len(part.Header))
	for name := range part.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, name := range names {
		b = appendPart(b, name)
		values := part.Header[name]
		b = binary.AppendUvarint(b, uint64(len(values)))
		for _, v := range values {
			b = appendPart(b, v)
		}
	}
	return b
}
