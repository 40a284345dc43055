-- One row: does anything differ from what the following statements set?
select not (
         pg_has_role(current_user, l.oid, 'SET') and pg_has_role(current_user, l.oid, 'USAGE')
         and d.datconnlimit = %(connections)s
         and has_database_privilege(l.oid, d.oid, 'CONNECT')
         and d.datacl is not null
         and not exists (select from aclexplode(d.datacl) where grantee = 0)
       ) as differs
  from pg_database d, pg_roles l
 where d.datname = %(database)s and l.rolname = %(login)s
