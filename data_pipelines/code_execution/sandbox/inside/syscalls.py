"""System calls by name, with their numbers on x86_64 and aarch64 ("-": there is none), and what a program may do with them.

From the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h); numbers never change.
"""

from __future__ import annotations

_ALLOWED = """
read:0:63 write:1:64 open:2:- openat:257:56 close:3:57 stat:4:- fstat:5:80 lstat:6:- newfstatat:262:79 statx:332:291 poll:7:-
ppoll:271:73 select:23:- pselect6:270:72 lseek:8:62 mmap:9:222 mprotect:10:226 munmap:11:215 mremap:25:216 brk:12:214 madvise:28:233
msync:26:227 mincore:27:232 rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137
rt_sigsuspend:130:133 sigaltstack:131:132 pread64:17:67 pwrite64:18:68 readv:19:65 writev:20:66 preadv:295:69 pwritev:296:70
preadv2:327:286 pwritev2:328:287 access:21:- faccessat:269:48 faccessat2:439:439 pipe:22:- pipe2:293:59 sched_yield:24:124 dup:32:23
dup2:33:- dup3:292:24 setitimer:38:103 getitimer:36:102 alarm:37:- pause:34:- nanosleep:35:101 clock_nanosleep:230:115
clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201:- getpid:39:172 gettid:186:178 getppid:110:173 getuid:102:174
geteuid:107:175 getgid:104:176 getegid:108:177 getresuid:118:148 getresgid:120:150 getgroups:115:158 getpgrp:111:- getpgid:121:155
getsid:124:156 uname:63:160 getcwd:79:17 chdir:80:49 fchdir:81:50 fsync:74:82 fdatasync:75:83 ftruncate:77:46 truncate:76:45
getdents:78:- getdents64:217:61 mkdir:83:- mkdirat:258:34 rmdir:84:- unlink:87:- unlinkat:263:35 rename:82:- renameat:264:38
renameat2:316:276 readlink:89:- readlinkat:267:78 symlink:88:- symlinkat:266:36 link:86:- linkat:265:37 umask:95:166 getrlimit:97:163
getrusage:98:165 sysinfo:99:179 times:100:153 futex:202:98 futex_waitv:449:449 set_robust_list:273:99 get_robust_list:274:100
rseq:334:293 set_tid_address:218:96 exit_group:231:94 sched_getaffinity:204:123 sched_getparam:143:121
sched_getscheduler:145:120 sched_get_priority_max:146:125 sched_get_priority_min:147:126 getrandom:318:278 getcpu:309:168
membarrier:324:283 arch_prctl:158:- wait4:61:260 waitid:247:95 eventfd:284:- eventfd2:290:19 epoll_create:213:- epoll_create1:291:20
epoll_ctl:233:21 epoll_wait:232:- epoll_pwait:281:22 epoll_pwait2:441:441 timerfd_create:283:85 timerfd_settime:286:86
timerfd_gettime:287:87 timer_create:222:107 timer_settime:223:110 timer_gettime:224:108 timer_getoverrun:225:109 timer_delete:226:111
flock:73:32 fallocate:285:47 sendfile:40:71 copy_file_range:326:285 close_range:436:436 fadvise64:221:223 statfs:137:43 fstatfs:138:44
restart_syscall:219:128 sendto:44:206 recvfrom:45:207 sendmsg:46:211 recvmsg:47:212 shutdown:48:210 getsockname:51:204
getpeername:52:205 getsockopt:55:209 setsockopt:54:208 getpriority:140:141 get_mempolicy:239:236
"""

_FORBIDDEN = """
socket:41:198 connect:42:203 bind:49:200 listen:50:201 accept:43:202 accept4:288:242 ptrace:101:117 process_vm_readv:310:270
process_vm_writev:311:271 fork:57:- vfork:58:- execve:59:221 execveat:322:281 rt_sigqueueinfo:129:138 rt_tgsigqueueinfo:297:240
tkill:200:130 pidfd_send_signal:424:424 pidfd_getfd:438:438 pidfd_open:434:434 mount:165:40 umount2:166:39 pivot_root:155:41
chroot:161:51 unshare:272:97 setns:308:268 keyctl:250:219 add_key:248:217 request_key:249:218 bpf:321:280 perf_event_open:298:241
userfaultfd:323:282 io_uring_setup:425:425 io_uring_enter:426:426 io_uring_register:427:427 memfd_create:319:279 memfd_secret:447:447
init_module:175:105 finit_module:313:273 delete_module:176:106 kexec_load:246:104 kexec_file_load:320:294 reboot:169:142 swapon:167:224
swapoff:168:225 settimeofday:164:170 clock_settime:227:112 clock_adjtime:305:266 adjtimex:159:171 setuid:105:146 setgid:106:144
setreuid:113:145 setregid:114:143 setresuid:117:147 setresgid:119:149 setfsuid:122:151 setfsgid:123:152 setgroups:116:159 capset:126:91
sethostname:170:161 setdomainname:171:162 quotactl:179:60 open_by_handle_at:304:- name_to_handle_at:303:- fanotify_init:300:262
fanotify_mark:301:263 open_tree:428:428 move_mount:429:429 fsopen:430:430 fsconfig:431:431 fsmount:432:432 fspick:433:433
mount_setattr:442:442 acct:163:89 syslog:103:116 vhangup:153:58 iopl:172:- ioperm:173:- personality:135:92 nfsservctl:180:42
"""

_BY_ARGUMENTS = """
clone:56:220 clone3:435:435 kill:62:129 tgkill:234:131 ioctl:16:29 fcntl:72:25 prctl:157:167 prlimit64:302:261 socketpair:53:199
seccomp:317:277 exit:60:93
"""

_EMPTYING = "open:2:- openat:257:56 truncate:76:45"
_OBJECTS = "shmget:29:194 semget:64:190 msgget:68:186 mq_open:240:180"

COLUMN = {"x86_64": 0, "aarch64": 1}
AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def _table(text: str, machine: str) -> dict[str, int]:
    rows = (entry.split(":") for entry in text.split())
    return {name: int(numbers[COLUMN[machine]]) for name, *numbers in rows if numbers[COLUMN[machine]] != "-"}


def allowed(machine: str) -> dict[str, int]:
    """Calls that reach nothing but the process itself and the files that it may see."""
    return _table(_ALLOWED, machine)


def forbidden(machine: str) -> dict[str, int]:
    """Calls that end the program: their name becomes its verdict."""
    return _table(_FORBIDDEN, machine)


def by_arguments(machine: str) -> dict[str, int]:
    """Calls that are one or the other by their arguments (see filters.py)."""
    return _table(_BY_ARGUMENTS, machine)


def emptying(machine: str) -> dict[str, int]:
    """Calls that can empty a file which the process may only read."""
    return _table(_EMPTYING, machine)


def objects(machine: str) -> dict[str, int]:
    """Calls that make what outlives its process and is no file."""
    return _table(_OBJECTS, machine)
