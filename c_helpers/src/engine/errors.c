/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What each check means and where it comes from. Sections refer to virtio 1.4; XSA and CVE numbers as published. */
#include "svq.h"

struct err_info {
    const char *name, *text, *source;
};

#define ERR(code, what, where) [SVQ_ERR_BASE - (code)] = { #code, what, where }

static const struct err_info infos[SVQ_ERR_BASE - SVQ_E_LAST] = {
    ERR(SVQ_E_RING_SIZE, "queue size must be a power of two, at most what was offered", "virtio 2.7"),
    ERR(SVQ_E_RING_ALIGN, "ring address must be aligned: descriptors 16, available 2, used 4", "virtio 2.7"),
    ERR(SVQ_E_RING_WRAP, "ring must end below the end of the guest's memory", "CVE-2020-10722"),
    ERR(SVQ_E_RING_OVERLAP, "the three areas of a ring must not overlap", "virtio 2.7"),
    ERR(SVQ_E_RING_NOT_RAM, "every page of a ring must be RAM of the guest", "CVE-2018-1059"),
    ERR(SVQ_E_AVAIL_IDX_JUMP, "available index may advance by at most the queue size", "virtio 2.7.13.3.1"),
    ERR(SVQ_E_IN_FLIGHT_LIMIT, "at most queue-size chains may be in flight", "virtio 2.7.13, CVE-2016-5403"),
    ERR(SVQ_E_HEAD_RANGE, "head must be below the queue size", "virtio 2.7.6"),
    ERR(SVQ_E_HEAD_BUSY, "head must not be in flight already", "virtio 2.7.13"),
    ERR(SVQ_E_NEXT_RANGE, "next must be below the size of its table", "virtio 2.7.5"),
    ERR(SVQ_E_CHAIN_LOOP, "a chain may have at most queue-size descriptors and no loop", "virtio 2.7.5.2"),
    ERR(SVQ_E_INDIRECT_NOT_NEGOTIATED, "INDIRECT may be set only if the feature was accepted", "virtio 2.7.5.3.1"),
    ERR(SVQ_E_INDIRECT_NESTED, "INDIRECT must not be set inside an indirect table", "virtio 2.7.5.3.1"),
    ERR(SVQ_E_INDIRECT_WITH_NEXT, "INDIRECT and NEXT must not be set together", "virtio 2.7.5.3.1"),
    ERR(SVQ_E_INDIRECT_LENGTH, "length of an indirect table must be a multiple of 16, and not zero",
        "virtio 2.7.5.3.2"),
    ERR(SVQ_E_INDIRECT_TOO_LONG, "an indirect table may have at most queue-size entries", "virtio 2.7.5.3.1"),
    ERR(SVQ_E_INDIRECT_NOT_RAM, "every page of an indirect table must be RAM of the guest", "CVE-2018-1059"),
    ERR(SVQ_E_WRITABLE_BEFORE_READABLE, "readable descriptors must come before writable ones", "virtio 2.7.4.2"),
    ERR(SVQ_E_ZERO_LENGTH, "a descriptor's length must not be zero", "CVE-2019-14835"),
    ERR(SVQ_E_ADDRESS_WRAP, "address + length must stay within the guest's frame numbers", "CVE-2020-10722"),
    ERR(SVQ_E_NOT_RAM, "every page of a buffer must be RAM of the guest", "CVE-2018-1059, CVE-2020-10725"),
    ERR(SVQ_E_CHAIN_LIMIT, "a chain may touch at most the pages that can be copied, within seg_max and size_max",
        "virtio 5.2.6"),
    ERR(SVQ_E_USED_IDX_JUMP, "used index may advance by at most the chains in flight", "virtio 2.7.14"),
    ERR(SVQ_E_USED_ID_RANGE, "used id must be below the queue size", "virtio 2.7.8"),
    ERR(SVQ_E_USED_ID_NOT_LIVE, "used id must name a chain in flight, once", "virtio 2.7.8"),
    ERR(SVQ_E_USED_LENGTH, "used length may be at most the writable bytes of the chain", "virtio 2.7.8.2"),
    ERR(SVQ_E_GRANT_BUSY, "a page must be unmapped before its request is returned", "XSA-396, CVE-2022-23036"),
    ERR(SVQ_E_GRANT_TAMPERED, "a grant entry of the window must stay as the mediator wrote it", "XSA-396"),
};

static const struct err_info *info(int code)
{
    static const struct err_info unknown = { "SVQ_E_UNKNOWN", "unknown error", "" };
    if (code >= SVQ_ERR_BASE || code <= SVQ_E_LAST || !infos[SVQ_ERR_BASE - code].name)
        return &unknown;
    return &infos[SVQ_ERR_BASE - code];
}

const char *svq_err_name(int code) { return info(code)->name; }
const char *svq_err_text(int code) { return info(code)->text; }
const char *svq_err_source(int code) { return info(code)->source; }
